"""Attention of single tokens by plain products gives what torch's fused attention gives."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from finery_transformers.answering import cpu


def states(tokens: int, heads: int, groups: int) -> list[torch.Tensor]:
    torch.manual_seed(tokens * heads + groups)
    shapes = (3, heads, tokens, 8), (3, groups, 11, 8), (3, groups, 11, 8)
    return [torch.randn(shape, dtype=torch.float64) for shape in shapes]


def padded(tokens: int) -> torch.Tensor:
    """The first row has no padding, the others have some on the left."""
    mask = torch.ones(3, 1, tokens, 11, dtype=torch.bool).tril(11 - tokens)
    mask[1, ..., :2] = mask[2, ..., :7] = False
    return mask


@pytest.mark.parametrize(("heads", "groups"), [(6, 6), (6, 2), (6, 1)])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("has_mask", [True, False])
@pytest.mark.parametrize("scaling", [None, 0.5])
def test_results_are_those_of_the_fused_attention(
    heads: int, groups: int, tokens: int, has_mask: bool, scaling: float | None
) -> None:
    module: Any = SimpleNamespace(num_key_value_groups=heads // groups, is_causal=True)
    query, key, value = states(tokens, heads, groups)
    mask = padded(tokens) if has_mask else None
    if tokens > 1 and mask is None:
        mask = torch.ones(3, 1, tokens, 11, dtype=torch.bool).tril(11 - tokens)
    expected, _ = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling)
    actual, _ = cpu._attention(module, query, key, value, mask, scaling=scaling)
    # Scores are in fp32.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_a_model_with_another_attention_keeps_it() -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama", vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, head_dim=8,
    )  # fmt: skip
    make: Any = AutoModelForCausalLM.from_config
    eager = make(config, attn_implementation="eager")
    assert not cpu.install(eager)
    assert eager.config._attn_implementation == "eager"
    fused = make(config, attn_implementation="sdpa")
    assert cpu.install(fused)
    assert fused.config._attn_implementation == cpu.NAME
