"""Enforces a budget while many requests are in flight.

A request is sent if the sum of these fits into the budget:

- what all engines of the step have used in this build,
- the maximum of each request in flight and of the request itself: its prompt and `max_tokens`, or
  the average of this model's answers so far if that is more (prompt lengths are estimates).

If no request is in flight, one is sent if it likely fits: with the average of answers so far, or
with its prompt alone before the first answer.

So a small budget doesn't send all first requests at once, and a budget is exceeded by at most a
part of one answer (of one batch, if a model answers in batches). While the budget has room for all
requests that may be in flight, none waits. Near the end, fewer requests are sent at a time, finally
one after the other, so that the remaining budget is used too: a budget below the maximum of one
answer still pays for shorter answers.

This applies to one stream. Streams that are read in turns don't see each other's requests.
"""

from collections.abc import Sequence
from typing import NamedTuple

from finery.inference.budget import Budget, Price, Usage
from finery.inference.types import Request


class Cost(NamedTuple):
    """Tokens and dollars of requests."""

    tokens: float
    dollars: float


def total(costs: Sequence[Cost]) -> Cost:
    """The sum of costs."""
    return Cost(sum(cost.tokens for cost in costs), sum(cost.dollars for cost in costs))


class Spending:
    """The requests of one stream in flight, and whether the budget allows more.

    job: usage of all engines of the step. own: usage of this model's engine. price: None if only
    tokens are limited. max_tokens: limit of an answer.
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
        """Count a batch that is sent."""
        self._flying[number] = self._most(batch)

    def end(self, number: int) -> None:
        """Remove a batch that is answered and counted, or that failed."""
        del self._flying[number]

    def affords(self, batch: Sequence[Request]) -> bool:
        """Whether a batch may be sent now, see the module."""
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
        """Number of rows, and their maximum cost as far as it is known beforehand."""
        return len(batch), total([self._cost(request, self._max_tokens) for request in batch])

    def _at_most(self, rows: int, most: Cost) -> Cost:
        """The maximum, or the average of answers so far if that is more."""
        mean = _times(self._mean() or Cost(0, 0), rows)
        return Cost(max(most.tokens, mean.tokens), max(most.dollars, mean.dollars))

    def _cost(self, request: Request, answer: int) -> Cost:
        prompt = request.estimated_tokens()
        return Cost(prompt + answer, self._price.of(prompt, answer))

    def _mean(self) -> Cost | None:
        """The average cost of this engine's answers."""
        calls = self._own.calls
        return Cost(self._own.tokens / calls, self._own.dollars / calls) if calls else None


def _times(cost: Cost, rows: int) -> Cost:
    return Cost(cost.tokens * rows, cost.dollars * rows)
