"""Batches without repeated tokens. Imports torch, so import it inside a function.

Rows of one task begin with the same system prompt, some also with the same tools or the same first
turns, and in a causal model a position depends only on earlier ones. So all layers except attention
process these common beginnings once, skip padding, and run on one sequence of the distinct tokens.
The results are equal except for rounding.
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
FEW = 2**19
"""Queries x keys of a row up to which separate products are faster in 16 bit."""
WORTH = 16
"""Tokens that a row must share with an earlier one beyond what all rows of the batch begin with. It
isn't worth another rounding where two questions happen to have their first words in common."""
PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3", "phi3", "olmo2"})
"""Types of models with equal results in tests."""


class Layout(NamedTuple):
    """A batch of B rows of up to T tokens as one sequence of N tokens.

    tokens, positions: [1, N]. mask: [B, 1, T, T], True for attended places. spread: [B · T], the
    index in the sequence of each place's token. places: [N], the place of each token. lengths: of
    the B rows. own: how many of a row's last tokens no earlier row shares. loss_at: the positions
    in the sequence with loss. targets: the tokens to predict there.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    spread: torch.Tensor
    places: torch.Tensor
    lengths: list[int]
    own: list[int]
    loss_at: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> Self:
        """Lay out a batch padded on the right; ids, mask and labels are [B, T]."""
        rows, length = ids.shape
        real = mask.bool()
        following = pad(labels[:, 1:], (0, 1), value=NO_LOSS)
        beginnings = _beginnings(ids, real, following == NO_LOSS)
        distinct = real.clone()
        for row, (_, shared) in enumerate(beginnings):
            distinct[row, :shared] = False  # an earlier row has them
        places = distinct.flatten().nonzero()[:, 0]
        spread = torch.zeros(rows * length, dtype=torch.long, device=ids.device)
        spread[places] = torch.arange(len(places), device=ids.device)
        for row, (earlier, shared) in enumerate(beginnings):
            spread.view(rows, length)[row, :shared] = spread.view(rows, length)[earlier, :shared]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        targets = following[distinct]
        loss_at = (targets != NO_LOSS).nonzero()[:, 0]
        return cls(
            ids[distinct][None],
            (places % length)[None],
            (causal & real[:, None])[:, None],
            spread,
            places,
            real.sum(dim=1).tolist(),
            distinct.sum(dim=1).tolist(),
            loss_at,
            targets[loss_at],
        )


def _beginnings(
    ids: torch.Tensor, real: torch.Tensor, without_loss: torch.Tensor
) -> list[tuple[int, int]]:
    """For each row the earlier row that it begins like, and for how many tokens; all [B, T].

    It is the first row of the batch unless another has at least `WORTH` tokens more. A token with
    loss isn't shared: it would count once for both rows.
    """
    free = real & without_loss
    common = int((free & (ids == ids[0])).all(dim=0).int().cumprod(dim=0).sum())
    spans = [(0, 0)]
    for row in range(1, len(ids)):
        same_tokens = real[:row] & free[row] & (ids[:row] == ids[row])
        shared, earlier = same_tokens.int().cumprod(dim=1).sum(dim=1).max(dim=0)
        is_worth = int(shared) >= common + WORTH
        spans.append((int(earlier), int(shared)) if is_worth else (0, common))
    return spans


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
    """Logits at positions with loss: [1, loss tokens, vocabulary]. model: of transformers."""
    return output_of(model, layout, logits_to_keep=layout.loss_at).logits


def output_of(model: Any, layout: Layout, **kwargs: Any) -> Any:
    """The output of a model of transformers, or of its decoder alone."""
    # The mask reaches the attention unchanged, also in backward passes.
    layout.mask.finery_layout = layout  # type: ignore[attr-defined]
    return model(
        input_ids=layout.tokens,
        position_ids=layout.positions,
        attention_mask=layout.mask,
        use_cache=False,
        **kwargs,
    )


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in transformers' shapes: [B, heads, T, size] in, [B, T, heads, size] out."""
    layout = getattr(mask, "finery_layout", None)
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    if len(mask) * mask.shape[-1] ** 2 > SHORT:  # each row's own tokens, to the whole row
        spread = layout.spread.view(len(layout.mask), -1)
        queries = torch.split(query, layout.own, dim=2)
        outs = []
        for row, (own_queries, length) in enumerate(zip(queries, layout.lengths, strict=True)):
            visible = layout.mask[row : row + 1, :, length - own_queries.shape[2] : length, :length]
            keys, values = (x.index_select(2, spread[row, :length]) for x in (key, value))
            few = visible.numel() <= FEW and own_queries.dtype != torch.float32
            attend = _grouped_products if few else sdpa_attention_forward
            outs.append(attend(module, own_queries, keys, values, visible, **kwargs)[0])
        return torch.cat(outs, dim=1), None
    query, key, value = (_spread(x, layout) for x in (query, key, value))
    out, _ = _single_products(module, query, key, value, mask, **kwargs)
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
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Equivalent to the fused attention, with softmax in fp32."""
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = kwargs.get("scaling") or 1 / math.sqrt(query.shape[-1])
    scores = (query @ key.transpose(2, 3)) * scale
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = dropout(weights, kwargs.get("dropout", 0.0), module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


def _grouped_products(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Equivalent to the fused attention, without a copy of keys and values for each query head."""
    rows, heads, tokens, size = query.shape
    shape = (rows, key.shape[1], heads // key.shape[1])  # query heads that share keys and values
    scale = kwargs.get("scaling") or 1 / math.sqrt(size)
    scores = (query * scale).reshape(*shape[:2], -1, size) @ key.transpose(2, 3)
    scores = scores.view(*shape, tokens, -1)
    scores = scores.masked_fill_(~mask[:, :, None], torch.finfo(scores.dtype).min)
    weights = dropout(softmax(scores, dim=-1), kwargs.get("dropout", 0.0), module.training)
    out = weights.flatten(2, 3) @ value
    return out.view(query.shape).transpose(1, 2), None
