"""How a budget holds while many requests are under way.

A request goes if all of this fits into the budget together:

- what all engines of the step have used in this build,
- those under way and the request itself, each with the most it can take: its prompt and
  `max_tokens`, or what answers of this model took on average where that is more (a prompt's length
  is estimated).

If none is under way a request goes that likely fits: with what answers took on average, or its
prompt alone as long as there was none.

So the first requests don't all go at once where a budget is small, and what passes a budget is at
most a part of one answer (of one batch, where a model answers in batches). While there is room for
all that may be under way at once, nothing waits. Near the end requests go fewer at a time, at last
one after the other, so that what is left is used too: a budget below what one answer can take still
pays for those that take less.

That is for one stream; streams that are read in turns don't see each other's requests under way.
"""

from collections.abc import Sequence
from typing import NamedTuple

from finery.inference.budget import Budget, Price, Usage, prompt_tokens
from finery.inference.types import Request


class Cost(NamedTuple):
    """What requests take."""

    tokens: float
    dollars: float


def total(costs: Sequence[Cost]) -> Cost:
    """All together."""
    return Cost(sum(cost.tokens for cost in costs), sum(cost.dollars for cost in costs))


class Spending:
    """What one stream of requests has under way, and whether its budget affords more.

    job: what all engines of the step used. own: what this model's engine did. price: None where
    only tokens are limited. max_tokens: of an answer.
    """

    def __init__(
        self, budget: Budget, job: Usage, own: Usage, price: Price | None, max_tokens: int
    ) -> None:
        self._budget = budget
        self._job = job
        self._own = own
        self._price = price or Price(input=0.0, output=0.0)
        self._max_tokens = max_tokens
        self._flying: dict[int, tuple[int, Cost]] = {}  # number → rows, their most

    def begin(self, number: int, batch: Sequence[Request]) -> None:
        """A batch is asked."""
        self._flying[number] = self._most(batch)

    def end(self, number: int) -> None:
        """A batch is answered, and counted by now, or failed."""
        del self._flying[number]

    def affords(self, batch: Sequence[Request]) -> bool:
        """Whether a batch may be asked now, see the module."""
        used = Cost(self._job.tokens, self._job.dollars)
        if not self._flying:
            return self._budget.holds(*total([used, self._likely(batch)]))
        flying = [self._at_most(*one) for one in self._flying.values()]
        return self._budget.holds(*total([used, *flying, self._at_most(*self._most(batch))]))

    def _likely(self, batch: Sequence[Request]) -> Cost:
        mean = self._mean()
        if mean is None:
            return total([self._cost(request, 0) for request in batch])
        return _times(mean, len(batch))

    def _most(self, batch: Sequence[Request]) -> tuple[int, Cost]:
        """Rows, and the most that they can take as far as is known beforehand."""
        return len(batch), total([self._cost(request, self._max_tokens) for request in batch])

    def _at_most(self, rows: int, most: Cost) -> Cost:
        """The same, or the average of answers so far where it is more."""
        mean = _times(self._mean() or Cost(0, 0), rows)
        return Cost(max(most.tokens, mean.tokens), max(most.dollars, mean.dollars))

    def _cost(self, request: Request, answer: int) -> Cost:
        prompt = prompt_tokens(request)
        return Cost(prompt + answer, self._price.of(prompt, answer))

    def _mean(self) -> Cost | None:
        """What an answer of this engine took on average."""
        calls = self._own.calls
        return Cost(self._own.tokens / calls, self._own.dollars / calls) if calls else None


def _times(cost: Cost, rows: int) -> Cost:
    return Cost(cost.tokens * rows, cost.dollars * rows)
