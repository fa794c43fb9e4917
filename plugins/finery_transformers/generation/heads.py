"""What prompts of a batch begin with, read once. Imports torch, so import it inside a function.

Rows of one task begin with the same system prompt, tools or examples. In a causal model, the keys
and values of a position depend only on earlier ones, so each distinct beginning is read as a row of
its own, and its part of the cache is then handed to all rows that have it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers.cache_utils import DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WORTH = 0.25
"""The share of a batch's tokens that must be saved, to read it in two parts."""


class Batch(NamedTuple):
    """Arguments of `generate`: tokens and mask [rows, tokens], and a cache of the first ones."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    cache: Any = None

    def arguments(self) -> dict[str, Any]:
        """Those that are given."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def read(model: "PreTrainedModel", prompts: Sequence[list[int]], pad: int) -> Batch:
    """The prompts of a batch as `generate` takes them, padded on the left.

    With a cache of what they begin with, where that saves enough and the model's cache is one of
    plain keys and values.
    """
    whole = Batch(*_padded(prompts, pad, model.device))
    places, sizes = _beginnings(prompts)
    heads = [prompts[row][:size] for row, size in sizes.items()]
    order = list(sizes)
    tails = [prompt[sizes[place] :] for prompt, place in zip(prompts, places, strict=True)]
    tokens, mask = _padded(heads, pad, model.device)
    rest, rest_mask = _padded(tails, pad, model.device)
    if tokens.numel() + rest.numel() > (1 - WORTH) * whole.input_ids.numel():
        return whole
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    supported: Any = model._supports_logits_to_keep  # mypy takes it for a tensor
    few = {"logits_to_keep": 1} if supported() else {}
    output = model(
        input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=True, **few
    )
    cache: Any = getattr(output, "cache", None)
    if not all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None])):
        return whole
    chosen = torch.tensor([order.index(place) for place in places], device=model.device)
    cache.batch_select_indices(chosen)
    return Batch(
        torch.cat([tokens[chosen], rest], dim=1), torch.cat([mask[chosen], rest_mask], dim=1), cache
    )


def _beginnings(prompts: Sequence[list[int]]) -> tuple[list[int], dict[int, int]]:
    """For each prompt the one whose beginning it has, and the length of each such beginning.

    Neighbors in order of their tokens share what they have in common if it is half of a prompt. The
    last token of a prompt never belongs to it, since its logits are needed.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    places, sizes = list(range(len(prompts))), dict[int, int]()
    first = order[0]
    for row in order:
        own = len(prompts[row]) - 1
        common = min(sizes.get(first, own), own, _common(prompts[first], prompts[row]))
        if 2 * common < own:
            first, common = row, own
        places[row], sizes[first] = first, common
    return places, sizes


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of tokens that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _padded(
    prompts: Sequence[list[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, mask), both rows × longest prompt, padded on the left."""
    longest = max(map(len, prompts))
    tokens = [[pad] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)
