"""Sends many requests to a model, with flat memory."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from finery import CachedEngine, Completion, FineryError, Request

T = TypeVar("T")


class Used(msgspec.Struct):
    """Number and tokens of the answers that a step used, cached ones included."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def take(self, answer: Completion | FineryError) -> None:
        """Count an answer; errors don't count."""
        if isinstance(answer, Completion):
            self.requests += 1
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens

    def meta(self) -> dict[str, int]:
        """The counts for a dataset's `meta`; the same whether answers were cached or not."""
        counts: dict[str, int] = msgspec.to_builtins(self)
        return counts


def ask(
    engine: CachedEngine,
    items: Iterable[T],
    request: Callable[[T], Request],
    *,
    total: int,
    progress: str,
    **sampling: Any,
) -> Iterator[tuple[T, Completion | FineryError]]:
    """Yield (item, its answer or error) as answers arrive, each item once.

    Items are taken as requests can be sent; only those in flight are in memory. Raises errors that
    end all requests, e.g. when the budget is reached or the API key is wrong.
    """
    flying: dict[int, T] = {}

    def requests() -> Iterator[Request]:
        for index, item in enumerate(items):
            flying[index] = item
            yield request(item)

    for index, answer in engine.stream(requests(), total=total, progress=progress, **sampling):
        yield flying.pop(index), answer
