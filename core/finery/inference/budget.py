"""The cost of answers: prices, usage so far, and budgets while many requests are in flight."""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from finery.errors import UsageError
from finery.fields import Settings, setting
from finery.util.text import counted, in_dollars

if TYPE_CHECKING:
    from finery.inference.engine import Completion, Request

REPORT_SECONDS = 0.1
"""Shortest time between two progress reports."""


class Price(Settings):
    """The price of a model, in dollars per million tokens."""

    input: float = setting(ge=0, help="Dollars per million prompt tokens.")
    output: float = setting(ge=0, help="Dollars per million answer tokens.")

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for these numbers of tokens."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6

    def of_answer(self, answer: "Completion") -> float:
        """Dollars for an answer with its prompt."""
        return self.of(answer.prompt_tokens, answer.completion_tokens)


class Budget(Settings):
    """What one build of a step may use. Cached answers cost nothing."""

    tokens: int | None = setting(None, ge=1, help="Maximum tokens, prompts and answers together.")
    dollars: float | None = setting(
        None, gt=0, help="Maximum dollars; needs the `price` of the models."
    )

    def __post_init__(self) -> None:
        """Raise `ValueError` for a budget without any limit."""
        if self.tokens is None and self.dollars is None:
            raise ValueError("a budget needs a limit: tokens, dollars, or both")

    def __str__(self) -> str:
        """The limits as text, e.g. `10,000 tokens and $5`."""
        tokens = f"{self.tokens:,} tokens" if self.tokens is not None else ""
        dollars = f"${self.dollars:g}" if self.dollars is not None else ""
        return " and ".join(filter(None, (tokens, dollars)))

    def check(self, price: Price | None) -> None:
        """Raise `UsageError` if dollars are limited but the price is unknown."""
        if self.dollars is not None and price is None:
            raise UsageError(
                "a budget in dollars needs the model's price",
                fix="set the model's price: {input: …, output: …}, in dollars per million tokens, "
                "or limit the budget in tokens",
            )

    def holds(self, tokens: float, dollars: float) -> bool:
        """Whether these amounts are within the limits, see `Spending`.

        Dollars are sums of floats, so they are compared with a tolerance of one millionth.
        """
        return (self.tokens is None or tokens <= self.tokens) and (
            self.dollars is None or dollars <= self.dollars * (1 + 1e-6)
        )


class Usage(msgspec.Struct):
    """Usage so far.

    calls: answers from the model. cached: answers from the cache. Tokens and dollars count the
    calls only. worth: dollars for the calls and for the cached answers, at today's price.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    worth: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of prompts and answers together."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, answer: "Completion", price: Price | None) -> None:
        """Count an answer from the model."""
        self.calls += 1
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        if price is not None:
            self.dollars += price.of_answer(answer)
        self.add_worth([answer], price)

    def add_worth(self, answers: "Iterable[Completion]", price: Price | None) -> None:
        """Add what answers cost, or cost when they were asked for."""
        if price is not None:
            self.worth += sum(map(price.of_answer, answers))

    def __str__(self) -> str:
        """As text: `480 calls, 120,000 tokens, $0.52`."""
        words = [counted(self.calls, "call"), counted(self.tokens, "token")]
        if self.dollars:
            words.append(in_dollars(self.dollars))
        return ", ".join(words)


class Ticker:
    """Limits how often progress is reported."""

    def __init__(self) -> None:
        self._reported = float("-inf")

    def is_due(self, done: int, total: int) -> bool:
        """Whether to report now: at the first and the last, and a few times a second."""
        now = time.monotonic()
        if done < total and now - self._reported < REPORT_SECONDS:
            return False
        self._reported = now
        return True


class Cost(NamedTuple):
    """Tokens and dollars of requests."""

    tokens: float
    dollars: float


def sum_costs(costs: Sequence[Cost]) -> Cost:
    """The sum of costs."""
    return Cost(sum(cost.tokens for cost in costs), sum(cost.dollars for cost in costs))


class Spending:
    """The requests of one stream in flight, and whether the budget allows more.

    A request is sent if the sum of these fits into the budget:

    - what all engines of the step have used in this build,
    - the maximum of each request in flight and of the request itself: its prompt and `max_tokens`,
      or the average of this model's answers so far if that is more (prompt lengths are estimates).

    If no request is in flight, one is sent if it likely fits: with the average of answers so far,
    or with its prompt alone before the first answer.

    So a small budget doesn't send all first requests at once, and a budget is exceeded by at most a
    part of one answer (of one batch, if a model answers in batches). While the budget has room for
    all requests that may be in flight, none waits. Near the end, fewer requests are sent at a time,
    finally one after the other, so that the remaining budget is used too: a budget below the
    maximum of one answer still pays for shorter answers.

    This applies to one stream. Streams that are read in turns don't see each other's requests.

    job: usage of all engines of the step. own: usage of this model's engine. price: None if only
    tokens are limited. max_tokens: limit of an answer.
    """

    def __init__(
        self, budget: Budget, job: Usage, engine: Usage, price: Price | None, max_tokens: int
    ) -> None:
        self._budget = budget
        self._job_usage = job
        self._engine_usage = engine
        self._price = price or Price(input=0.0, output=0.0)
        self._max_tokens = max_tokens
        self._in_flight: dict[int, tuple[int, Cost]] = {}  # number → rows, their most

    def begin(self, number: int, batch: "Sequence[Request]") -> None:
        """Count a batch that is sent."""
        self._in_flight[number] = self._maximum(batch)

    def end(self, number: int) -> None:
        """Remove a batch that is answered and counted, or that failed."""
        del self._in_flight[number]

    def affords(self, batch: "Sequence[Request]") -> bool:
        """Whether a batch may be sent now."""
        used = Cost(self._job_usage.tokens, self._job_usage.dollars)
        if not self._in_flight:
            mean = self._mean_cost()
            costs = [mean or self._cost(request, 0) for request in batch]
            return self._budget.holds(*sum_costs([used, *costs]))
        flying = [self._upper_bound(*batch_cost) for batch_cost in self._in_flight.values()]
        return self._budget.holds(
            *sum_costs([used, *flying, self._upper_bound(*self._maximum(batch))])
        )

    def _maximum(self, batch: "Sequence[Request]") -> tuple[int, Cost]:
        """Number of rows, and their maximum cost as far as it is known beforehand."""
        return len(batch), sum_costs([self._cost(request, self._max_tokens) for request in batch])

    def _upper_bound(self, rows: int, maximum: Cost) -> Cost:
        """The maximum, or the average of answers so far if that is more."""
        mean = self._mean_cost() or Cost(0, 0)
        return Cost(
            max(maximum.tokens, mean.tokens * rows), max(maximum.dollars, mean.dollars * rows)
        )

    def _cost(self, request: "Request", answer: int) -> Cost:
        prompt = request.estimated_tokens()
        return Cost(prompt + answer, self._price.of(prompt, answer))

    def _mean_cost(self) -> Cost | None:
        """The average cost of this engine's answers."""
        calls = self._engine_usage.calls
        return (
            Cost(self._engine_usage.tokens / calls, self._engine_usage.dollars / calls)
            if calls
            else None
        )
