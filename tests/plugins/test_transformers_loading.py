"""Loading: every format becomes one plain model, and what can't be loaded says why."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tiny_gguf import write_tiny_gguf
from tiny_llama import CHATML, tiny_llama

from finery import Model, StepError
from finery_transformers.imports import quick_gguf
from finery_transformers.loading import load_adapter, load_merged, load_model, load_tokenizer


@pytest.fixture
def tiny(tmp_path: Path) -> Model:
    return tiny_llama(tmp_path / "tiny")


def adapter(
    base: Model, folder: Path, seed: int = 1, layers: str | list[str] = "all-linear"
) -> Model:
    """A random adapter, on all linear layers of `base`."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=layers, task_type="CAUSAL_LM")
    model = get_peft_model(load_model(base, torch.float32), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(str(folder))
    return Model(folder, meta={"format": "adapter"}, refs={"base": base})


def weight(model: Any, name: str = "model.layers.0.mlp.up_proj") -> Any:
    return model.get_submodule(name).weight


def test_a_gguf_is_dequantised_and_saves_as_safetensors(tmp_path: Path) -> None:
    import torch

    file = write_tiny_gguf(tmp_path / "tiny.gguf")
    model, tokenizer = load_merged(Model(tmp_path, meta={"format": "gguf", "file": file.name}))
    model.save_pretrained(str(tmp_path / "saved"))
    again = load_model(Model(tmp_path / "saved", meta={"format": "transformers"}), torch.bfloat16)
    assert model.dtype is torch.bfloat16
    assert torch.equal(weight(model), weight(again))
    assert tokenizer.chat_template == CHATML


def test_a_gguf_is_read_quickly_and_as_it_is(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    plain = gguf.GGUFReader(path)
    with quick_gguf():
        quick = gguf.GGUFReader(path)
        assert gguf.GGUFReader(path) is quick
        path.touch()
        assert gguf.GGUFReader(path) is not quick
    assert gguf.GGUFReader is type(plain)
    assert quick.fields.keys() == plain.fields.keys()
    assert all(quick.fields[n].contents() == f.contents() for n, f in plain.fields.items())
    for mine, other in zip(quick.tensors, plain.tensors, strict=True):
        assert (mine.name, mine.data.tobytes()) == (other.name, other.data.tobytes())


def test_merging_adds_in_fp32_and_rounds_once(tmp_path: Path, tiny: Model) -> None:
    import torch
    from safetensors.torch import load_file

    learned = adapter(tiny, tmp_path / "a")
    tensors = load_file(learned.file("adapter_model.safetensors"))
    prefix = "base_model.model.model.layers.0.mlp.up_proj.lora_"
    delta = tensors[f"{prefix}B.weight"] @ tensors[f"{prefix}A.weight"] * 2  # alpha / r
    base = weight(load_model(tiny, torch.bfloat16))
    merged, _ = load_merged(learned)
    assert torch.equal(weight(merged), (base.float() + delta).to(torch.bfloat16))


@pytest.mark.parametrize("layer", ["lm_head", "embed_tokens"])
def test_merging_changes_only_one_of_two_layers_with_the_same_weights(
    tmp_path: Path, tiny: Model, layer: str
) -> None:
    import torch

    ids = torch.arange(8)[None]
    learned = adapter(tiny, tmp_path / "a", layers=[layer])
    merged = load_model(learned, torch.float32)
    with torch.no_grad():
        trained = load_adapter(load_model(tiny, torch.float32), learned)(input_ids=ids).logits
        assert not torch.allclose(load_model(tiny, torch.float32)(input_ids=ids).logits, trained)
        torch.testing.assert_close(merged(input_ids=ids).logits, trained)
        merged.save_pretrained(str(tmp_path / "saved"))
        saved = Model(tmp_path / "saved", meta={"format": "transformers"})
        again = load_model(saved, torch.float32)(input_ids=ids).logits
        torch.testing.assert_close(again, trained)


def test_an_adapter_on_an_adapter_is_merged_onto_what_it_was_trained_on(
    tmp_path: Path, tiny: Model
) -> None:
    import torch

    first = adapter(tiny, tmp_path / "first")
    second = adapter(first, tmp_path / "second", seed=2)
    model, _ = load_merged(first)
    model.save_pretrained(str(tmp_path / "merged"))
    under = Model(tmp_path / "merged", meta={"format": "transformers"})
    alone = Model(second.path, meta=second.meta, refs={"base": under})
    expected = load_model(alone, torch.bfloat16)
    assert torch.equal(weight(load_merged(second)[0]), weight(expected))


def test_nothing_saved_names_a_folder_of_this_machine(tmp_path: Path, tiny: Model) -> None:
    learned = adapter(tiny, tmp_path / "a")
    config = json.loads(learned.file("adapter_config.json").read_text())
    assert not config["base_model_name_or_path"]


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    plain = tiny_llama(tmp_path / "plain", template=None)
    with pytest.raises(StepError, match="no chat template") as caught:
        load_tokenizer(plain)
    assert "`chat_template:`" in str(caught.value.fix)


@pytest.mark.parametrize("damage", ["cut", "gone", "pickled"])
def test_broken_weights_are_an_error_that_names_the_files(tiny: Model, damage: str) -> None:
    weights = tiny.file("model.safetensors")
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    if damage == "pickled":  # never loaded
        tiny.file("pytorch_model.bin").write_bytes(b"")
    with pytest.raises(StepError, match="can't be loaded") as caught:
        load_model(tiny)
    assert "config.json" in str(caught.value.fix)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, tiny: Model) -> None:
    learned = adapter(tiny, tmp_path / "a")
    wider = tiny_llama(tmp_path / "wider", width=64)
    with pytest.raises(StepError, match="adapter model can't be loaded"):
        load_model(Model(learned.path, meta=learned.meta, refs={"base": wider}))


def test_weights_that_are_missing_are_not_drawn_at_random(tiny: Model) -> None:
    path = tiny.path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(StepError, match="lacks 9 of the weights") as error:
        load_model(tiny)
    assert "model.layers.2." in error.value.details[0]
