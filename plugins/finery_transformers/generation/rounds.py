"""Generate in rounds, each without the rows that have ended. Imports torch.

A batch takes as many steps as its longest answer. Its other rows would be computed to the end and
thrown away, which takes most of the time where some answers are much longer than others.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from finery_transformers.generation.heads import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHARE = 0.5
"""Of a round's rows: it stops once as many have ended."""

Ended = Callable[[list[int]], bool]


def answers(
    model: "PreTrainedModel",
    batch: Batch,
    *,
    ends: Collection[int],
    stopped: Ended | None = None,
    max_new_tokens: int,
    **arguments: Any,
) -> list[list[int]]:
    """The tokens of each row's answer, up to the token that ends it and perhaps beyond.

    ends: tokens that end an answer. stopped: whether an answer's tokens contain a stop string.
    arguments: others of `generate`. Models whose cache isn't one of plain keys and values read the
    tokens of the second round anew and finish in it.
    """
    rows = list(range(len(batch.input_ids)))
    written: list[list[int]] = [[] for _ in rows]
    again = True
    while rows:
        length = batch.input_ids.shape[1]
        round_ = _Round(written, rows, length, ends, stopped, SHARE if again else 1.0)
        output: Any = model.generate(  # type: ignore[operator]
            **batch.arguments(),
            **arguments,
            max_new_tokens=max_new_tokens,
            stopping_criteria=StoppingCriteriaList([round_]),
            return_dict_in_generate=True,
        )
        new = output.sequences[:, length:]
        for row, tokens in zip(rows, new.tolist(), strict=True):
            written[row] += tokens
        max_new_tokens -= new.shape[1]
        left = [place for place, done in enumerate(round_.done) if not done and max_new_tokens]
        rows = [rows[place] for place in left]
        if rows:
            batch, again = _rest(output, batch.attention_mask, left)
    return written


def _rest(output: Any, mask: torch.Tensor, left: Sequence[int]) -> tuple[Batch, bool]:
    """The rows that go on, and whether their cache was kept. mask: of the tokens before."""
    chosen = torch.tensor(left, device=mask.device)
    tokens = output.sequences[chosen]
    new = tokens.shape[1] - mask.shape[1]
    mask = torch.cat([mask[chosen], mask.new_ones(len(left), new)], dim=1)
    cache: Any = getattr(output, "cache", None)
    if not all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None])):
        return Batch(tokens, mask), False
    cache.batch_select_indices(chosen)
    return Batch(tokens, mask, cache), True


class _Round(StoppingCriteria):
    """Which rows have ended. It ends all once a share of them has."""

    def __init__(
        self,
        written: Sequence[list[int]],
        rows: Sequence[int],
        length: int,
        ends: Collection[int],
        stopped: Ended | None,
        share: float,
    ) -> None:
        self.before = [written[row] for row in rows]
        self.length = length
        self.ends = ends
        self.stopped = stopped
        self.share = share
        self.done = [False] * len(rows)

    def __call__(self, tokens: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        """True for rows that have ended; for all where the round ends."""
        for place, token in enumerate(tokens[:, -1].tolist()):
            if not self.done[place]:
                self.done[place] = token in self.ends or self._stopped(tokens, place)
        over = sum(self.done) >= self.share * len(self.done)
        return torch.tensor([done or over for done in self.done], device=tokens.device)

    def _stopped(self, tokens: torch.Tensor, place: int) -> bool:
        if self.stopped is None:
            return False
        return self.stopped(self.before[place] + tokens[place, self.length :].tolist())
