"""Models with packed weights answer as they did before, and others keep their layers."""

from typing import Any

import pytest
import torch
from needs import may_lack
from random_model import model_of
from torch import nn

from finery_transformers.answering.cpu import PackedLinear, is_supported, pack

IDS = torch.arange(3, 27).reshape(2, 12)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()  # type: ignore[no-any-return]


def need(dtype: torch.dtype) -> None:
    if not is_supported(dtype):
        pytest.skip(may_lack(f"oneDNN doesn't compute in {dtype} on this machine"))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "gemma", "phi3", "olmo2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_model_has_the_same_logits(kind: str, dtype: torch.dtype) -> None:
    need(dtype)
    model = model_of(kind, dtype)
    before = logits(model)
    assert pack(model)
    assert not any(type(layer) is nn.Linear for layer in model.modules())
    rtol, atol = (1e-4, 1e-5) if dtype is torch.float32 else (0.05, 0.02)
    torch.testing.assert_close(logits(model), before, rtol=rtol, atol=atol)


def test_a_tied_embedding_keeps_its_weights() -> None:
    need(torch.float32)
    model = model_of("llama", torch.float32, tie_word_embeddings=True)
    embedding = model.get_input_embeddings().weight.clone()
    assert pack(model)
    assert torch.equal(model.get_input_embeddings().weight, embedding)


def test_a_model_that_reads_a_layers_weights_keeps_its_layers() -> None:
    need(torch.float32)
    model = model_of("llama", torch.float32)
    before, weights = logits(model), {k: v.clone() for k, v in model.state_dict().items()}
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda x: x @ mlp.up_proj.weight.T @ mlp.down_proj.weight.T
    assert not pack(model)
    assert not any(isinstance(layer, PackedLinear) for layer in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    del mlp.forward
    assert torch.equal(logits(model), before)


def test_a_layer_that_computes_something_else_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    need(torch.float32)
    monkeypatch.setattr(
        PackedLinear, "forward", lambda self, values: values @ self.packed.to_dense().T * 2
    )
    model = model_of("llama", torch.float32)
    before = logits(model)
    assert not pack(model)
    assert torch.equal(logits(model), before)


def test_other_dtypes_are_left_alone() -> None:
    assert not pack(model_of("llama", torch.float64))
