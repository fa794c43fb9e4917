"""Attention of one new token in each row, on a CPU. Imports torch.

torch's fused attention handles many queries at once. For a single one, in bf16, plain products of
the query heads that share keys and values take about half the time.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "finery_answers"
UNUSUAL = ("position_bias", "softcap", "output_attentions")
"""Arguments that the plain products don't know."""


def install(model: "PreTrainedModel") -> bool:
    """Make a model that answers on a CPU use it. Whether it does: only in place of `sdpa`."""
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' shapes: [B, heads, T, size] in, [B, T, heads, size] out."""
    usual = mask is None or (mask.dtype is torch.bool and mask.shape[1] == 1)
    if query.shape[2] > 1 or not usual or any(more.get(name) for name in UNUSUAL):
        return sdpa_attention_forward(module, query, key, value, mask, **more)
    rows, heads, _, size = query.shape
    scale = more.get("scaling") or 1 / math.sqrt(size)
    grouped = query.reshape(rows, key.shape[1], -1, size)
    scores = (grouped @ key.transpose(2, 3)).float() * scale
    if mask is not None:
        scores = scores.masked_fill_(~mask, -math.inf)
    weights = scores.softmax(dim=-1).to(value.dtype)
    return (weights @ value).reshape(rows, 1, heads, -1), None
