"""The cost of answers: prices, budgets, and usage so far."""

import time
from collections.abc import Iterable

import msgspec

from finery.errors import UsageError
from finery.fields import Settings, setting
from finery.inference.types import Completion
from finery.util.text import in_dollars

REPORT_SECONDS = 0.1
"""Shortest time between two progress reports."""


class Price(Settings):
    """The price of a model, in dollars per million tokens."""

    input: float = setting(ge=0, help="Dollars per million prompt tokens.")
    output: float = setting(ge=0, help="Dollars per million answer tokens.")

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for these numbers of tokens."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


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
        """Whether these amounts are within the limits, see `finery.inference.spending`.

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

    def add(self, answer: Completion, price: Price | None) -> None:
        """Count an answer from the model."""
        self.calls += 1
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        if price is not None:
            self.dollars += price.of(answer.prompt_tokens, answer.completion_tokens)
        self.add_worth([answer], price)

    def add_worth(self, answers: Iterable[Completion], price: Price | None) -> None:
        """Add what answers cost, or cost when they were asked for."""
        if price is not None:
            self.worth += sum(price.of(a.prompt_tokens, a.completion_tokens) for a in answers)

    def __str__(self) -> str:
        """As text: `480 calls, 120,000 tokens, $0.52`."""
        words = [_count(self.calls, "call"), _count(self.tokens, "token")]
        if self.dollars:
            words.append(in_dollars(self.dollars))
        return ", ".join(words)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


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
