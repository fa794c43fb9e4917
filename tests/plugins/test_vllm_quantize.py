"""`vllm.quantize`: linear layers in FP8."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from needs import may_lack
from vllm_models import tiny_adapter, tiny_base

from finery import Model, StepError
from finery.testing import run_step
from finery_transformers.hardware import not_loaded
from finery_transformers.loading import load_model
from finery_vllm.quantize import SCHEME, Quantize

needs_llmcompressor = pytest.mark.skipif(
    find_spec("llmcompressor") is None,
    reason=may_lack("needs LLM Compressor, which wants other versions of transformers"),
)


def test_without_llm_compressor_an_environment_is_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "llmcompressor", None)
    with pytest.raises(StepError, match="needs LLM Compressor") as raised:
        run_step(Quantize(model=tiny_base(tmp_path / "base")), tmp_path)
    assert "packages: [llmcompressor, peft]" in str(raised.value.fix)


def test_a_folder_that_transformers_cannot_read_names_vllm() -> None:
    """The words of transformers without compressed-tensors."""
    error = ImportError("Using `compressed_tensors` quantized models requires compressed-tensors")
    refused = not_loaded(error)
    assert refused is not None
    assert "vllm.model" in str(refused.fix)


@needs_llmcompressor
@pytest.mark.slow
@pytest.mark.parametrize("adapter", [False, True])
def test_linear_layers_are_rounded_and_others_kept(tmp_path: Path, adapter: bool) -> None:
    """The rows of a weight, times their scales, are those of the merged model, within FP8."""
    import torch
    from safetensors.torch import load_file

    model = base = tiny_base(tmp_path / "base")
    (base.path / "manifest.json").write_text("{}")  # as in finery's store
    base.meta["chat_template_kwargs"] = {"enable_thinking": False}
    if adapter:
        model = tiny_adapter(tmp_path / "adapter", base, scale=0.2)
    made: Model = run_step(Quantize(model=model), tmp_path)
    assert made.meta == {
        "format": "transformers", "quantization": SCHEME,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    config = json.loads(made.file("config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "compressed-tensors"
    rounded = load_file(made.file("model.safetensors"))
    whole = load_model(model, torch.bfloat16).state_dict()
    for name, weight in rounded.items():
        if weight.dtype is torch.float8_e4m3fn:
            restored = weight.float() * rounded[f"{name}_scale"].float()
            error = (restored - whole[name].float()).abs().amax(dim=1)
            assert (error <= whole[name].float().abs().amax(dim=1) / 14).all(), name
        elif not name.endswith("_scale"):
            assert torch.equal(weight.bfloat16(), whole[name]), name
    layers = {name.split(".")[-2] for name, w in rounded.items() if w.itemsize == 1}
    assert layers == {f"{of}_proj" for of in ("q", "k", "v", "o", "gate", "up", "down")}
    assert made.file("tokenizer_config.json").is_file()
    assert not made.file("manifest.json").exists()
