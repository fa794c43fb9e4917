"""Batches without repeated tokens. Imports torch, so import it inside a function.

Rows of one task begin with the same system prompt, and in a causal model a position depends only on
earlier ones. So all layers except attention process the common prefix once, skip padding, and run
on one sequence of the distinct tokens. Only attention sees whole rows. Loss and gradients are equal
to those of the padded batch, except for rounding.
"""

import math
from typing import Any, NamedTuple, Self

import torch
from torch.nn.functional import dropout, pad, softmax
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finery_trl.rows.example import NO_LOSS

NAME = "finery_rows"
"""The name of this attention in a model's configuration."""
SHORT = 2**18
"""Rows x tokens² up to which separate products are faster on a CPU than the fused attention of
torch, which has a slow backward pass for short rows."""
PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3", "phi3", "olmo2"})
"""Types of models with equal results in tests."""


class Layout(NamedTuple):
    """A batch of B rows of up to T tokens as one sequence of N tokens.

    tokens, positions: [1, N]. mask: [B, 1, T, T], True where a place attends. spread: [B · T], the
    index in the sequence of each place's token. places: [N], the place of each token. loss_at: the
    positions in the sequence with loss, and `targets`, the tokens to predict there.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    spread: torch.Tensor
    places: torch.Tensor
    loss_at: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> Self:
        """Lay out a batch padded on the right; ids, mask and labels are [B, T]."""
        rows, length = ids.shape
        real = mask.bool()
        following = pad(labels[:, 1:], (0, 1), value=NO_LOSS)
        alike = (real & (ids == ids[0]) & (following == NO_LOSS)).all(dim=0)
        shared = int(alike.int().cumprod(dim=0).sum())
        distinct = real.clone()
        distinct[1:, :shared] = False  # the first row has them
        places = distinct.flatten().nonzero()[:, 0]
        spread = torch.zeros(rows * length, dtype=torch.long, device=ids.device)
        spread[places] = torch.arange(len(places), device=ids.device)
        spread.view(rows, length)[:, :shared] = torch.arange(shared, device=ids.device)
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        targets = following[distinct]
        loss_at = (targets != NO_LOSS).nonzero()[:, 0]
        return cls(
            ids[distinct][None],
            (places % length)[None],
            (causal & real[:, None])[:, None],
            spread,
            places,
            loss_at,
            targets[loss_at],
        )


def fits(model: Any, longest: int) -> bool:
    """Whether all layers except attention process each token alone, and the attention is standard.

    longest: tokens of the longest row, which a sliding window must cover.
    """
    config = model.config
    window = getattr(config, "sliding_window", None) or longest
    plain = config.model_type in PLAIN and config._attn_implementation == "sdpa"
    return plain and window >= longest


def install(model: Any) -> None:
    """Make the model's attention understand layouts. Other inputs are processed as before."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def logits_of(model: Any, layout: Layout) -> Any:
    """Logits where there is loss: [1, loss tokens, vocabulary]. model: called as transformers'."""
    # The mask reaches the attention unchanged, also in backward passes.
    layout.mask.finery_layout = layout  # type: ignore[attr-defined]
    return model(
        input_ids=layout.tokens,
        position_ids=layout.positions,
        attention_mask=layout.mask,
        use_cache=False,
        logits_to_keep=layout.loss_at,
    ).logits


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **more: Any
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' shapes: [B, heads, T, size] in, [B, T, heads, size] out."""
    layout = getattr(mask, "finery_layout", None)
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, mask, **more)
    query, key, value = (_spread(x, layout) for x in (query, key, value))
    short = len(mask) * mask.shape[-1] ** 2 <= SHORT
    attend = _single_products if short else sdpa_attention_forward
    out, _ = attend(module, query, key, value, mask, **more)
    return out.flatten(0, 1).index_select(0, layout.places)[None], None


def _spread(states: torch.Tensor, layout: Layout) -> torch.Tensor:
    """[1, heads, N, size] → [B, heads, T, size]."""
    rows, length = len(layout.mask), layout.mask.shape[-1]
    heads, size = states.shape[1], states.shape[3]
    spread = states[0].transpose(0, 1).index_select(0, layout.spread)
    return spread.view(rows, length, heads, size).transpose(1, 2)


def _single_products(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Equivalent to the fused attention, with softmax in fp32."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = more.get("scaling") or 1 / math.sqrt(query.shape[-1])
    scores = (query @ key.transpose(2, 3)) * scale
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = dropout(weights, more.get("dropout", 0.0), module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None
