"""Asking a model for many things at once, with memory that stays flat.

`Task` is one request and what shall come of it. `ask` sends tasks and pairs each with its answer,
in whatever order answers come; `Spool` puts things back into order on disk.
"""

import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from finery import CachedEngine, Completion, FineryError, Request
from finery.rows import Conversation, Row

MOST_VARIANTS = 100_000
"""Requests for the same thing that there may be; attempts are numbered behind them."""
T = TypeVar("T")
A = TypeVar("A")


class Task(msgspec.Struct, kw_only=True):
    """One request.

    number: its place among all tasks, from 0 and without gaps. seeds: the rows it is made from;
    their ids become the parents. wanted: rows that shall come of it. variant: which of the requests
    for the same thing it is, below `MOST_VARIANTS`; two tasks of the same messages differ by it.
    more: what the step needs to read the answer.
    """

    number: int
    messages: Conversation
    seeds: list[Row]
    wanted: int = 1
    variant: int = 0
    tools: list[dict[str, Any]] | None = None
    more: dict[str, Any] = {}

    def request(self, attempt: int) -> Request:
        """The request of an attempt, from 0.

        The numbers of attempts depend neither on how many variants there are nor on how often may
        be asked again: raising either asks only for what is new.
        """
        return Request(self.messages, self.tools, attempt * MOST_VARIANTS + self.variant)


class Used(msgspec.Struct):
    """Answers that were made use of, whenever they were asked for, and their tokens."""

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
        found: dict[str, int] = msgspec.to_builtins(self)
        return found


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


class Spool(Generic[A]):
    """Values by number on disk, several under each; read in order of the numbers.

    folder: where its file lies, which has no name. kind: the values' type, for msgspec.
    """

    def __init__(self, folder: Path, kind: type[A]) -> None:
        self._file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (as long as the spool)
        self._last = array("q")  # number → where its newest record begins, -1: it has none
        self._counts = array("I")
        self._decode = msgspec.msgpack.Decoder(tuple[int, kind])  # type: ignore[valid-type]
        self._encode = msgspec.msgpack.Encoder()

    def add(self, number: int, value: A) -> None:
        """Keep a value under a number, after those that are there."""
        if missing := number + 1 - len(self._last):
            self._last.extend([-1] * max(0, missing))
            self._counts.extend([0] * max(0, missing))
        content = self._encode.encode((self._last[number], value))
        self._last[number] = self._file.seek(0, 2)
        self._counts[number] += 1
        self._file.write(len(content).to_bytes(4, "little") + content)

    def count(self, number: int) -> int:
        """How many values there are under a number."""
        return self._counts[number] if number < len(self._counts) else 0

    def of(self, number: int) -> list[A]:
        """The values under a number, in the order in which they were added."""
        found: list[A] = []
        place = self._last[number] if number < len(self._last) else -1
        while place >= 0:
            place, value = self._read(place)
            found.append(value)
        return found[::-1]

    def numbers(self) -> Iterator[int]:
        """The numbers that have values, in order."""
        return (number for number, count in enumerate(self._counts) if count)

    def __iter__(self) -> Iterator[tuple[int, A]]:
        """(number, value), in order of the numbers."""
        for number in self.numbers():
            yield from ((number, value) for value in self.of(number))

    def close(self) -> None:
        """Give the disk's space back."""
        self._file.close()

    def _read(self, place: int) -> tuple[int, A]:
        self._file.seek(place)
        size = int.from_bytes(self._file.read(4), "little")
        return self._decode.decode(self._file.read(size))
