"""What answers cost: prices, budgets, and what was used so far."""

import time

import msgspec

from finery.errors import UsageError
from finery.fields import Settings, setting
from finery.inference.types import Completion, Request
from finery.util.text import in_dollars

TELL_SECONDS = 0.1
"""How often at most the progress of many quick answers is told."""
CHARACTERS_A_TOKEN = 4
"""About so many; for what is estimated before a model has counted."""


def prompt_tokens(request: Request) -> int:
    """About how many tokens a prompt has, with the tools it offers."""
    asked = [request.messages, request.tools] if request.tools else request.messages
    return 1 + len(msgspec.json.encode(asked)) // CHARACTERS_A_TOKEN


class Price(Settings):
    """What a model costs, in dollars a million tokens."""

    input: float = setting(ge=0, help="Dollars a million tokens of prompts.")
    output: float = setting(ge=0, help="Dollars a million tokens of answers.")

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for so many tokens."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


class Budget(Settings):
    """What one build of a step may use. Answers that are there from before cost nothing."""

    tokens: int | None = setting(None, ge=1, help="Most tokens, of prompts and answers together.")
    dollars: float | None = setting(
        None, gt=0, help="Most dollars; needs the `price` of the models that are asked."
    )

    def __post_init__(self) -> None:
        """Raise `ValueError` where nothing is limited: who writes a budget expects a limit."""
        if self.tokens is None and self.dollars is None:
            raise ValueError("a budget needs a limit: tokens, dollars, or both")

    def __str__(self) -> str:
        """The limits, in words."""
        tokens = f"{self.tokens:,} tokens" if self.tokens is not None else ""
        dollars = f"${self.dollars:g}" if self.dollars is not None else ""
        return " and ".join(filter(None, (tokens, dollars)))

    def check(self, price: Price | None) -> None:
        """Raise `UsageError` if dollars are limited and nobody knows what answers cost."""
        if self.dollars is not None and price is None:
            raise UsageError(
                "a budget in dollars needs to know what the model costs",
                fix="set the model's price: {input: …, output: …}, in dollars a million tokens, "
                "or give the budget in tokens",
            )

    def holds(self, tokens: float, dollars: float) -> bool:
        """Whether so much is within the limits; `finery.inference.spending` says how much that is.

        Dollars are sums, and exact to a millionth part.
        """
        return (self.tokens is None or tokens <= self.tokens) and (
            self.dollars is None or dollars <= self.dollars * (1 + 1e-6)
        )


class Usage(msgspec.Struct):
    """What was asked and used so far.

    calls: answers asked of the model. cached: answers that were there. Tokens and dollars are of
    the calls alone.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        """Of prompts and answers together."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, answer: Completion, price: Price | None) -> None:
        """Count an answer that was asked for."""
        self.calls += 1
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        if price is not None:
            self.dollars += price.of(answer.prompt_tokens, answer.completion_tokens)

    def __str__(self) -> str:
        """In words: `480 calls, 120,000 tokens, $0.52`."""
        words = [_count(self.calls, "call"), _count(self.tokens, "token")]
        if self.dollars:
            words.append(in_dollars(self.dollars))
        return ", ".join(words)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


class Ticker:
    """Says when it is time to tell the progress again."""

    def __init__(self) -> None:
        self._told = float("-inf")

    def is_due(self, done: int, total: int) -> bool:
        """Whether to tell now: at the first, at the last, and a few times a second."""
        now = time.monotonic()
        if done < total and now - self._told < TELL_SECONDS:
            return False
        self._told = now
        return True
