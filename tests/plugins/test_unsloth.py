"""Trainings with Unsloth: TRL's settings, and plain words where they can't be had.

Without a GPU nothing is trained here: tested is all that comes before Unsloth's own code.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeProject, Project
from needs import may_lack
from safetensors.numpy import save_file
from tiny_llama import tiny_tokenizer

from finery import Dataset, Model, StepError, UsageError
from finery.recipe.schema import step_schema
from finery.testing import TestJob
from finery_trl import steps
from finery_trl.settings import Launch, Lora
from finery_unsloth.loading import _folder, _tokenizer, adapter_arguments
from finery_unsloth.machine import make_ready
from finery_unsloth.steps import Dpo, Sft

BOTH = [(Sft, steps.Sft), (Dpo, steps.Dpo)]
RECIPE = """finery: 1
name: t
models: {base: {use: local.model, path: model}}
data: {rows: {use: data.file, path: rows.jsonl}}
train: {tuned: {use: unsloth.sft, model: base, rows: rows, epochs: 1}}
"""
HERE = pytest.mark.skipif(find_spec("unsloth") is not None, reason=may_lack("Unsloth is installed"))


def made(cls: type[Any], **settings: Any) -> Any:
    return cls(**{"model": Model.placeholder("m"), "rows": [Dataset.placeholder("r")], **settings})


@pytest.fixture
def recipe(project: MakeProject) -> Project:
    row = {"prompt": [{"role": "user", "content": "a"}]}
    row["completion"] = [{"role": "assistant", "content": "b"}]
    model = {
        "model/config.json": json.dumps({"architectures": ["LlamaForCausalLM"]}),
        "model/tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}),
    }
    t = project({"recipe.yaml": RECIPE, "rows.jsonl": json.dumps(row), **model})
    save_file({"w": np.ones((2, 5), np.float16)}, t.folder / "model" / "model.safetensors")
    return t


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A folder with packages that have Unsloth's names and nothing in them."""
    for name in ("unsloth", "unsloth_zoo"):
        (tmp_path / "empty" / name).mkdir(parents=True)
        (tmp_path / "empty" / name / "__init__.py").touch()
    return tmp_path / "empty"


@pytest.mark.parametrize(("ours", "trls"), BOTH)
def test_settings_are_those_of_trl(ours: Any, trls: Any) -> None:
    """With help, limits, order and defaults, so that a recipe changes nothing but `use:`."""
    schemas = [step_schema(cls) for cls in (ours, trls)]
    for schema in schemas:
        for named in (schema, *schema.get("$defs", {}).values()):
            named.pop("title", None)
        del schema["description"]
    assert json.dumps(schemas[0]) == json.dumps(schemas[1])
    defaults = [
        {f: getattr(made(cls), f) for f in cls.__struct_fields__[2:]} for cls in (ours, trls)
    ]
    assert defaults[0] == defaults[1]
    assert ours.__spec__.isolated
    assert ours.__spec__.sections == trls.__spec__.sections


def test_versions_of_unsloth_are_in_the_key() -> None:
    with_4_bits = made(Sft, quantization="nf4").cache_key().packages
    assert {"trl", "torch", "unsloth", "unsloth_zoo", "bitsandbytes"} <= set(with_4_bits)


@pytest.mark.parametrize(("cls", "where", "settings"), [
    (Sft, "dtype", {"dtype": "fp32"}),
    (Sft, "packing", {"packing": True}),
    (Dpo, "launch", {"launch": Launch()}),
    (Dpo, "lora", {"lora": None}),
])  # fmt: skip
def test_what_unsloth_would_not_honour_is_refused(
    cls: Any, where: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(UsageError) as caught:
        made(cls, **settings).check()
    assert caught.value.where == where


@pytest.mark.parametrize("cls", [Sft, Dpo])
def test_all_else_is_taken(cls: Any) -> None:
    lora = Lora(r=64, use_rslora=True, use_dora=True, lora_dropout=0.1, target_modules=["q_proj"])
    made(cls, lora=lora, quantization="fp4", double_quantization=False, dtype="bf16").check()


def test_a_refusal_stands_at_its_place_in_the_recipe(recipe: Project) -> None:
    recipe.edit("recipe.yaml", "epochs: 1", "dtype: fp32")
    ran = recipe.run("check")
    assert ran.code == 2
    assert "recipe.yaml:5:" in ran.err
    assert "use: trl.sft, which takes the same settings" in ran.err


def built(recipe: Project) -> str:
    """The error of a build that fails, and leaves nothing of the step that failed."""
    ran = recipe.run("build")
    assert ran.code == 1
    assert "Traceback" not in ran.err
    assert sorted(p.name for p in (recipe.folder / "build" / "t").iterdir()) == ["base", "rows"]
    assert not list((recipe.folder / ".finery").rglob("adapter*"))
    plan = [json.loads(line) for line in recipe.run("plan", "--json").out.splitlines()]
    assert {p["step"]: p["state"] for p in plan if "step" in p}["tuned"] == "run"
    return ran.out + ran.err


@HERE
def test_without_unsloth_a_build_says_how_to_get_it(recipe: Project) -> None:
    text = built(recipe)
    assert "not installed: unsloth and unsloth_zoo" in text
    assert "[unsloth]'" in text
    assert "use: trl.sft" in text


@HERE
@pytest.mark.slow
def test_without_a_gpu_a_build_says_what_it_found(recipe: Project, empty: Path) -> None:
    paths = [str(empty), *filter(None, [os.environ.get("PYTHONPATH")])]
    recipe.env["PYTHONPATH"] = os.pathsep.join(paths)
    text = built(recipe)
    assert "Unsloth needs a GPU that multiplies bf16, but torch" in text
    assert "use: trl.sft" in text


@HERE
def test_unsloth_is_not_imported_without_a_gpu(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty / "unsloth" / "__init__.py").write_text("raise AssertionError")
    monkeypatch.syspath_prepend(empty)
    with pytest.raises(StepError, match="finds no CUDA device"):
        make_ready(tmp_path / "unsloth", "use: trl.sft")
    assert "UNSLOTH_COMPILE_LOCATION" not in os.environ


def test_an_adapter_is_what_the_settings_say() -> None:
    said = adapter_arguments(made(Sft, lora=Lora(r=8, use_rslora=True)))
    assert said == {
        "r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": "all-linear",
        "use_rslora": True, "bias": "none",
    }  # fmt: skip
    assert adapter_arguments(made(Dpo, lora=Lora(use_dora=True)))["use_dora"] is True


def test_an_adapter_is_loaded_beside_its_base(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    config = {"r": 4, "base_model_name_or_path": "org/base", "revision": "main"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    base = Model(tmp_path / "base", meta={"format": "transformers"})
    adapter = Model(tmp_path / "adapter", meta={"format": "adapter"}, refs={"base": base})
    job = TestJob(tmp_path / "job", seed=1)
    for _ in range(2):  # an attempt that was interrupted leaves the folder
        found = _folder(made(Dpo, model=adapter), None, job)  # type: ignore[arg-type]
    said = json.loads((found / "adapter_config.json").read_text())
    assert said == {"r": 4, "base_model_name_or_path": str(base.path), "revision": None}
    assert (found / "adapter_model.safetensors").read_bytes() == b"weights"


def test_unsloth_never_has_to_add_a_padding_token(tmp_path: Path) -> None:
    """It would, where the padding token is the end of sequence, and the model would grow."""
    tiny_tokenizer().save_pretrained(str(tmp_path))
    model = Model(tmp_path, meta={"format": "transformers"})
    folder = _tokenizer(made(Sft, model=model), TestJob(tmp_path / "job", seed=1))
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert said["eos_token"] == "<|endoftext|>"
    assert said["pad_token"] == "<|im_start|>"
