"""A LoRA as a GGUF: llama.cpp answers with it as with the merged model, or it is refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import write_tiny_gguf

from finery import Bundle, Model, Promise, StepError, UsageError
from finery.testing import TestJob, dataset
from finery_gguf.export import Export
from finery_gguf.llama import ADAPTER
from finery_gguf.lora import base_gguf
from finery_ollama.modelfile import Modelfile, read_modelfile
from finery_serve.bundle.step import LlamaBundle
from finery_serve.llama import RUN, read_run
from finery_transformers.loading import load_model

pytestmark = pytest.mark.slow

ROWS = [{"prompt": f"Where is parcel {i}?", "completion": "On its way."} for i in range(3)]
TALK = [{"role": "user", "content": "Why?"}]


@pytest.fixture(scope="module", autouse=True)
def exact() -> Iterator[None]:
    """Compute in fp32 also on a CPU with bf16, in which a random model has other answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINERY_AUTO_DTYPE", "fp32")
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A random Llama with grouped heads, whose queries and keys llama.cpp reorders."""
    path = write_tiny_gguf(tmp_path_factory.mktemp("base") / "tiny.gguf")
    model = Model(path.parent, meta={"format": "gguf", "file": path.name, "architecture": "llama"})
    model.digest = "of the base"
    return model


def tuned(folder: Path, base: Model, **settings: Any) -> Model:
    """A random adapter of `base`; queries are scaled differently from other layers."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    wanted: dict[str, Any] = {"target_modules": "all-linear", "rank_pattern": {"q_proj": 2}}
    config = LoraConfig(
        r=4, lora_alpha=16, use_rslora=True, init_lora_weights=False, **wanted | settings
    )
    model = get_peft_model(load_model(base, torch.float32), config)
    model.save_pretrained(str(folder))
    return Model(folder, meta={"format": "adapter", "prompts": {"system": ""}}, refs={"base": base})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lora")


@pytest.fixture(scope="module")
def adapter(folder: Path, base: Model) -> Model:
    return tuned(folder / "adapter", base)


@pytest.fixture(scope="module")
def exported(folder: Path, adapter: Model) -> Model:
    rows = [dataset(folder / "rows", ROWS)]
    return Export(model=adapter, adapter=True, rows=rows).run(TestJob(folder / "exported"))[""]


def answer(model: Model) -> str:
    return TestJob(seed=None).engine(model).generate([TALK], max_tokens=12)[0].text


@pytest.mark.quick
def test_it_answers_as_the_trained_model(exported: Model, adapter: Model, base: Model) -> None:
    assert (exported.format, exported.refs) == (ADAPTER, {"base": base})
    assert exported.meta["same_effect"] > 0.999
    names = sorted(path.name for path in exported.path.iterdir())
    assert names == ["adapter.gguf", "chat_template.jinja"]
    assert answer(exported) == answer(adapter) != answer(base)


def test_the_same_adapter_has_the_same_bytes(exported: Model, adapter: Model, folder: Path) -> None:
    again = Export(model=adapter, adapter=True).run(TestJob(folder / "again"))[""]
    files = [model.file("adapter.gguf").read_bytes() for model in (exported, again)]
    assert files[0] == files[1]


def test_a_server_and_a_bundle_apply_it(
    exported: Model, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer(exported)
    monkeypatch.setenv("FINERY_GGUF_ENGINE", "server")
    assert answer(exported) == expected
    job = TestJob(folder / "bundle")
    bundle: Bundle = LlamaBundle(gguf=exported, name="tiny").run(job)
    options = read_run(bundle.file(RUN))
    assert (options.model, options.adapter) == ("tiny.gguf", "adapter.gguf")
    assert options.template == exported.file("chat_template.jinja").read_text()
    for name, place in (("compose.yaml", "/bundle"), ("llama-swap.yaml", "${folder}")):
        words = re.sub(r'["\\]|\n *- ', " ", bundle.file(name).read_text()).split()
        assert words[words.index("--lora") + 1] == f"{place}/adapter.gguf"
    assert bundle.file("adapter.gguf").is_file()


def test_ollama_applies_it_to_its_base(exported: Model, folder: Path) -> None:
    job = TestJob(folder / "ollama")
    bundle = Modelfile(gguf=exported, name="tiny").run(job)
    commands = read_modelfile(bundle.file("Modelfile").read_text())
    assert commands[:2] == [("FROM", "./tiny.gguf"), ("ADAPTER", "./adapter.gguf")]
    assert {"adapter.gguf", "tiny.gguf"} <= {path.name for path in job.out.iterdir()}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"target_modules": ["embed_tokens"], "rank_pattern": {}}, "embed_tokens"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ],
)
def test_what_llama_cpp_cannot_apply_is_refused(
    settings: dict[str, Any], reason: str, base: Model, tmp_path: Path
) -> None:
    model = tuned(tmp_path / "adapter", base, **settings)
    with pytest.raises(StepError, match=reason) as caught:
        Export(model=model, adapter=True).run(TestJob(tmp_path / "job"))
    assert "remove `adapter: true`" in str(caught.value.fix)


def test_an_adapter_of_other_weights_is_found_out(
    adapter: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the converter didn't reorder queries and keys."""
    from finery_gguf import convert

    plain = convert._ADAPTER_PROGRAM.replace(
        "eager=True)", "eager=True)\nmodel.undo_permute = False"
    )
    monkeypatch.setattr(convert, "_ADAPTER_PROGRAM", plain)
    with pytest.raises(StepError, match="correlates by only 0"):
        Export(model=adapter, adapter=True).run(TestJob(tmp_path / "job"))


def test_a_base_that_is_missing_or_another_is_refused(adapter: Model, base: Model) -> None:
    folder = Model(base.path, meta={"format": "transformers"})
    folder.digest = "of the folder"
    trained = Model(adapter.path, meta=adapter.meta, refs={"base": folder})
    with pytest.raises(StepError, match="its base must be exported, too"):
        base_gguf(trained, None)
    for source in ("of the folder", "of another"):
        given = Model(base.path, meta={**base.meta, "exported_from": source})
        if source == folder.digest:
            assert base_gguf(trained, given) is given
            continue
        with pytest.raises(StepError, match="exported from another model"):
            base_gguf(trained, given)


@pytest.mark.quick
def test_settings_that_contradict_an_adapter_are_refused() -> None:
    model, base = Model.placeholder("sft"), Model.placeholder("gguf")
    assert Export(model=model, adapter=True).outputs() == {
        "": Promise(Model, {"format": "gguf-adapter"})
    }
    for settings, where in (
        ({"base": base}, "base"),
        ({"adapter": True, "quantization": ["q4_k_m"]}, "quantization"),
    ):
        with pytest.raises(UsageError) as caught:
            Export(model=model, **settings).check()
        assert caught.value.where == where
    whole = Model(Path(), meta={"format": "transformers"})
    with pytest.raises(UsageError, match="expects an adapter") as caught:
        Export(model=whole, adapter=True).check()
    assert "or remove adapter: true" in str(caught.value.fix)
