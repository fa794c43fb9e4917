"""Asking a model for many things at once, with memory that stays flat."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from finery import CachedEngine, Completion, FineryError, Request

T = TypeVar("T")


class Used(msgspec.Struct):
    """Number and tokens of the answers that a step used, whenever they were asked for."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def take(self, answer: Completion | FineryError) -> None:
        """Count an answer; an error is none."""
        if isinstance(answer, Completion):
            self.requests += 1
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens

    def meta(self) -> dict[str, int]:
        """For a dataset's `meta`: the same for the same answers, cached or not."""
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
    """(item, its answer or the error there is instead), as answers come, each item once.

    Items are taken as they can be asked; those under way are held, no others. Raises what ends the
    whole: a budget that is reached, a key that isn't taken.
    """
    flying: dict[int, T] = {}

    def requests() -> Iterator[Request]:
        for index, item in enumerate(items):
            flying[index] = item
            yield request(item)

    for index, answer in engine.stream(requests(), total=total, progress=progress, **sampling):
        yield flying.pop(index), answer
