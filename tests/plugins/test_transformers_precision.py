"""The dtype of `dtype: auto`, where it is in keys, and GPUs that torch can't use."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project
from tiny_llama import tiny_llama

import finery_transformers
from finery import Dataset, Job, Model, Step, StepError
from finery.execute.gpu import Gpu
from finery.testing import TestJob
from finery_transformers import hardware, loading, precision
from finery_transformers.engine import TransformersEngine
from finery_transformers.precision import dtype_of, unused_gpu
from finery_trl.steps import Sft

CUDA_13 = "__version__ = '2.13.0+cu130'\ncuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n"
CPU = "__version__ = '2.13.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"


def gpu(name: str, *capability: int) -> Gpu:
    """A GPU with this capability."""
    return Gpu(f"GPU-{name}", name, (capability[0], capability[1]), 16 * 2**30, 2**30)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


T4, A100 = gpu("Tesla T4", 7, 5), gpu("NVIDIA A100", 8, 0)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives this machine GPUs, a driver and a torch."""
    monkeypatch.delenv("FINERY_AUTO_DTYPE", raising=False)

    def give(*gpus: Gpu, driver: tuple[int, int] = (13, 0), torch: str | None = CUDA_13) -> None:
        precision._auto_dtype.cache_clear()
        monkeypatch.setattr(precision, "visible_gpus", lambda: list(gpus))
        monkeypatch.setattr(precision, "driver_cuda", lambda: driver)
        monkeypatch.setattr(precision, "_torch_version", lambda: torch)

    precision._auto_dtype.cache_clear()
    yield give
    precision._auto_dtype.cache_clear()


@pytest.mark.parametrize(("capability", "dtype"), [
    ((6, 1), "fp32"), ((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((12, 0), "bf16"),
])  # fmt: skip
def test_a_gpu_computes_in_what_its_hardware_multiplies(
    capability: tuple[int, int], dtype: str
) -> None:
    assert dtype_of(capability) == dtype


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp32"])
def test_models_are_loaded_in_the_dtype_of_their_keys(
    monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    import torch

    monkeypatch.setenv("FINERY_AUTO_DTYPE", dtype)
    names = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    assert loading.default_dtype() is names[dtype]


@pytest.mark.parametrize(("capability", "name"), [
    ((7, 5), "float16"), ((8, 6), "bfloat16"), ((6, 0), "float32"),
])  # fmt: skip
def test_without_a_build_the_gpu_of_torch_decides(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], name: str
) -> None:
    """A T4 emulates bf16, which torch counts as support unless asked for the hardware."""
    import torch

    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or capability >= (8, 0)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert loading.default_dtype() is getattr(torch, name)


# -- GPUs that torch can't use ---------------------------------------------------------------------


def test_a_driver_that_is_too_old_is_named(machine: Any) -> None:
    machine(A100, driver=(12, 4))
    unused = unused_gpu()
    assert unused is not None
    assert unused.reason == (
        "NVIDIA A100 isn't used: its driver supports CUDA up to 12.4, and the installed torch "
        "needs 13.0"
    )
    assert unused.fix.startswith("update the driver, or install a torch for CUDA 12, ")
    assert precision.usable_gpus() == []


def test_a_torch_for_cpus_is_named_only_where_there_is_a_gpu(machine: Any) -> None:
    machine(A100, torch=CPU)
    unused = unused_gpu()
    assert unused is not None
    assert unused.reason == "NVIDIA A100 isn't used: the installed torch is built without CUDA"
    machine(torch=CPU)
    assert unused_gpu() is None
    machine(A100, torch=None)  # other steps don't need torch
    assert unused_gpu() is None


# -- keys ------------------------------------------------------------------------------------------


def test_the_dtype_is_in_the_key_where_the_machine_decides_it(machine: Any) -> None:
    machine(T4)
    model, rows = Model.placeholder("m"), list[Dataset]()
    assert Sft(model=model, rows=rows).cache_key().facts == {"dtype": "fp16"}
    assert Sft(model=model, rows=rows, dtype="bf16").cache_key().facts == {}
    assert TransformersEngine.cache_key().facts == {"dtype": "fp16"}


RECIPE = """\
finery: 1
models: {base: {use: local.model, path: model}}
data: {rows: {use: data.file, path: rows.jsonl, format: completion}}
train:
  auto: {use: trl.sft, model: base, rows: rows}
  fixed: {use: trl.sft, model: base, rows: rows, dtype: fp32}
evaluate:
  test: {use: eval.exact, models: [base], rows: rows}
"""


def parts_of(project: Project, step: str, dtype: str) -> list[str]:
    """The parts of a step's key on a machine with this dtype, with their values."""
    project.env["FINERY_AUTO_DTYPE"] = dtype
    lines = project.run("explain", step, "--all").out.splitlines()
    return [" ".join(line.split()) for line in lines if line.startswith("  ")]


@pytest.mark.parametrize("step", ["auto", "fixed", "test"])
def test_results_in_another_dtype_have_another_key(
    project: MakeProject, tmp_path: Path, step: str
) -> None:
    tiny_llama(tmp_path / "model")
    rows = json.dumps({"prompt": "a", "completion": "b"})
    made = project({"recipe.yaml": RECIPE, "rows.jsonl": rows})
    made.ran("base", "rows")
    one, other = (parts_of(made, step, dtype) for dtype in ("bf16", "fp32"))
    assert len(one) > 10
    changed = set(one) ^ set(other)
    both = {"machine dtype bf16", "machine dtype fp32"}
    assert changed == (set() if step == "fixed" else both)


# -- what a step ran on ----------------------------------------------------------------------------


def test_the_manifest_names_the_gpu_without_changing_the_model(
    machine: Any, tmp_path: Path, tiny: Model
) -> None:
    machine(T4)
    model = Model(tmp_path, meta={"format": "transformers"})
    hardware.forget()
    loaded = loading.load_model(tiny)
    hardware.record(deterministic=True)
    loaded.config._attn_implementation = "eager"  # a training may change it
    hardware.add_facts(model)
    assert model.runtime["hardware"] == {
        "device": "Tesla T4", "gpus": 1, "capability": "7.5", "attention": "eager",
        "deterministic": True,
    }  # fmt: skip
    assert "hardware" not in model.meta
    machine()
    hardware.forget()
    hardware.add_facts({"a": model})
    assert model.runtime["hardware"] == {"device": "cpu"}


class OnGpu(Step, seeded=False, gpus=1):
    """A step that uses a GPU."""

    def run(self, job: Job) -> Model:
        return Model(job.out, meta={"format": "transformers"})


def test_a_step_that_uses_gpus_is_observed(machine: Any) -> None:
    machine(A100, driver=(12, 4))
    job = TestJob(seed=None)
    wrapper = finery_transformers.finery_run_step(OnGpu(), job)
    next(wrapper)
    model = Model(job.out, meta={})
    with pytest.raises(StopIteration) as caught:
        wrapper.send(model)
    assert caught.value.value is model
    assert model.runtime["hardware"]["device"] == "cpu"
    assert "isn't used" in job.events[0]["message"]


# -- errors while loading --------------------------------------------------------------------------


BROKEN = """
🚨 CUDA SETUP ERROR: Missing dependency: libcudart.so.13 🚨

CUDA 13.x runtime libraries were not found in the LD_LIBRARY_PATH.

Original error: libcudart.so.13: cannot open shared object file
🔍 Run this command for detailed diagnostics:
python -m bitsandbytes
"""


@pytest.mark.parametrize(("error", "what", "detail"), [
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
     "not enough GPU memory to load the model", "CUDA out of memory. Tried to allocate 2 GiB"),
    (RuntimeError(BROKEN), "quantization needs bitsandbytes, which can't be used here",
     "Original error: libcudart.so.13: cannot open shared object file"),
])  # fmt: skip
def test_what_is_not_in_the_files_is_not_blamed_on_them(
    tiny: Model, monkeypatch: pytest.MonkeyPatch, error: Exception, what: str, detail: str
) -> None:
    from transformers import AutoModelForCausalLM

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(StepError) as caught:
        loading.load_model(tiny)
    assert (caught.value.what, caught.value.details) == (what, [detail])


def test_a_model_that_overflows_fp16_computes_in_fp32(tiny: Model) -> None:
    import torch

    logged: list[str] = []
    model: Any = loading.load_model(tiny, torch.float16)
    loading.to_device(model, logged.append)
    assert (model.dtype, logged) == (torch.float16, [])
    model.get_output_embeddings().weight.data.fill_(6e4)
    loading.to_device(model, logged.append)
    assert model.dtype is torch.float32
    assert logged == ["this model's values are too large for fp16: computing in fp32"]
