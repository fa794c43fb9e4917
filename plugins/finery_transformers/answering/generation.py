"""Answers a batch of prompts: reads them in parts, and generates in rounds. Imports torch.

Rows of one task begin with the same system prompt, tools or examples. In a causal model, the keys
and values of a position depend only on earlier ones, so each distinct beginning is evaluated as one
row, and its part of the cache is then copied to all rows that share it.

A batch takes as many steps as its longest answer. If some answers are much longer than others, most
of the time would be spent on rows that have already ended. So each round continues without them.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DynamicLayer

from finery.rows.difference import first_difference

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finery_transformers.answering.constraint import Constraint


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
    """The prompts of a batch as arguments of `generate`, padded on the left.

    With a cache of their common beginnings, if that saves enough and the model's cache consists of
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
    """For each prompt, the prompt whose beginning it shares, and the length of that beginning.

    Neighbours in the order of their tokens share a beginning if it is at least half of a prompt. It
    never includes the last token of a prompt, because that token's logits are needed.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompts[i])
    places, sizes = list(range(len(prompts))), dict[int, int]()
    first = order[0]
    for row in order:
        own = len(prompts[row]) - 1
        common = min(sizes.get(first, own), own, first_difference(prompts[first], prompts[row]))
        if 2 * common < own:
            first, common = row, own
        places[row], sizes[first] = first, common
    return places, sizes


def _padded(
    prompts: Sequence[list[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(tokens, mask), both rows × longest prompt, padded on the left."""
    longest = max(map(len, prompts))
    tokens = [[pad] * (longest - len(p)) + p for p in prompts]
    mask = [[0] * (longest - len(p)) + [1] * len(p) for p in prompts]
    return torch.tensor(tokens, device=device), torch.tensor(mask, device=device)


SHARE = 0.5
"""Of a round's rows: it stops once as many have ended."""

Ended = Callable[[list[int]], bool]


def answers(
    model: "PreTrainedModel",
    batch: Batch,
    *,
    ends: Collection[int],
    stopped: Ended | None = None,
    constraints: "Sequence[Constraint | None]" = (),
    max_new_tokens: int,
    **arguments: Any,
) -> tuple[list[list[int]], list[float]]:
    """The tokens of each row's answer, up to the token that ends it and perhaps beyond.

    And the log-probability of each answer, as `Completion.logprob`.

    ends: tokens that end an answer. stopped: whether an answer's tokens contain a stop string.
    constraints: of each row. arguments: others of `generate`. Models whose cache isn't one of plain
    keys and values read the tokens of the second round anew and finish in it.
    """
    rows = list(range(len(batch.input_ids)))
    written: list[list[int]] = [[] for _ in rows]
    logprobs = [0.0 for _ in rows]
    again = True
    while rows:
        length = batch.input_ids.shape[1]
        round_ = _Round(written, rows, length, ends, stopped, SHARE if again else 1.0)
        held = [_Held(round_, [constraints[row] for row in rows])] if any(constraints) else []
        output: Any = model.generate(  # type: ignore[operator]
            **batch.arguments(),
            **arguments,
            max_new_tokens=max_new_tokens,
            stopping_criteria=StoppingCriteriaList([round_]),
            logits_processor=LogitsProcessorList([_Probabilities(round_), *held]),
            return_dict_in_generate=True,
        )
        new = output.sequences[:, length:]
        for row, tokens, logprob in zip(rows, new.tolist(), round_.logprobs, strict=True):
            written[row] += tokens
            logprobs[row] += logprob
        max_new_tokens -= new.shape[1]
        left = [place for place, done in enumerate(round_.done) if not done and max_new_tokens]
        rows = [rows[place] for place in left]
        if rows:
            batch, again = _rest(output, batch.attention_mask, left)
    return written, logprobs


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
        self.logprobs = [0.0] * len(rows)  # of the answers in this round
        self.probabilities = torch.empty(0)  # logarithms of those of the next token, see below

    def __call__(self, tokens: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        """True for rows that have ended; for all where the round ends."""
        gained = self.probabilities.gather(1, tokens[:, -1:])[:, 0].tolist()
        for place, token in enumerate(tokens[:, -1].tolist()):
            if not self.done[place]:
                self.logprobs[place] += gained[place]
                self.done[place] = token in self.ends or self._stopped(tokens, place)
        over = sum(self.done) >= self.share * len(self.done)
        return torch.tensor([done or over for done in self.done], device=tokens.device)

    def _stopped(self, tokens: torch.Tensor, place: int) -> bool:
        return self.stopped is not None and self.stopped(self.answer(tokens, place))

    def answer(self, tokens: torch.Tensor, place: int) -> list[int]:
        """The tokens of a row's answer so far."""
        new: list[int] = tokens[place, self.length :].tolist()
        return self.before[place] + new


class _Probabilities(LogitsProcessor):
    """Notes how probable each next token is, before other processors change that."""

    def __init__(self, round_: _Round) -> None:
        self.round = round_

    def __call__(self, _tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, vocabulary], unchanged."""
        self.round.probabilities = scores.float().log_softmax(dim=-1)
        return scores


class _Held(LogitsProcessor):
    """Allows only tokens with which the answers of a round follow their schema."""

    def __init__(self, round_: _Round, constraints: "Sequence[Constraint | None]") -> None:
        self.round = round_
        self.constraints = constraints

    def __call__(self, tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores [rows, vocabulary], minus infinity for other tokens."""
        for place, constraint in enumerate(self.constraints):
            if constraint is not None and not self.round.done[place]:
                allowed = torch.from_numpy(constraint.allowed(self.round.answer(tokens, place)))
                rest = scores.shape[1] - len(allowed)  # padding of the vocabulary
                refused = torch.nn.functional.pad(~allowed, (0, rest), value=True)
                scores[place].masked_fill_(refused.to(scores.device), -torch.inf)
        return scores
