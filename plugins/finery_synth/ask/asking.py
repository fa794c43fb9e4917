"""Requests to a model and what becomes of their answers, with flat memory."""

import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from finery import CachedEngine, Completion, FineryError, Request
from finery.rows import Conversation, Row
from finery.rows.generated import Origin

A = TypeVar("A")
T = TypeVar("T")
MOST_VARIANTS = 100_000
"""Maximum number of requests with the same messages, and the distance between attempts."""


class Task(msgspec.Struct, kw_only=True):
    """One request of a generator.

    seeds: the rows it is made from; their ids become the parents. wanted: the number of rows that
    its answer should contain. variant: its number among the requests with these messages, below
    `MOST_VARIANTS`. more: data that the step needs to read the answer. facts: additional facts for
    the lines of its rows in `generated.jsonl`. number: its index among all tasks, set by the run.
    """

    messages: Conversation
    seeds: list[Row]
    wanted: int = 1
    variant: int = 0
    tools: list[dict[str, Any]] | None = None
    more: dict[str, Any] = {}
    facts: dict[str, Any] = {}
    number: int = 0

    def request(self, attempt: int) -> Request:
        """The request of an attempt, from 0.

        The numbers of attempts don't depend on the number of variants or retries, so raising either
        sends only new requests.
        """
        return Request(self.messages, self.tools, attempt * MOST_VARIANTS + self.variant)


class Candidate(msgspec.Struct):
    """A possible row of a task; with a `reason`, a rejected one.

    row: if there is none, the task's seed. seeds: the rows it is made from, if they are needed to
    compare or select rows.
    """

    row: Row
    origin: Origin
    seeds: list[Row] = []
    reason: str = ""
    detail: str = ""

    @property
    def passes(self) -> bool:
        """Whether it passes all checks."""
        return not self.reason and all(checked.passed for checked in self.origin.checks)


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
    used: Used,
    items: Iterable[T],
    request: Callable[[T], Request],
    *,
    total: int,
    progress: str,
    **sampling: Any,
) -> Iterator[tuple[T, Completion | FineryError]]:
    """Yield (item, its answer or error) as answers arrive, each item once.

    Items are taken as requests can be sent; only those in flight are in memory. used: counts the
    answers. Raises errors that end all requests, e.g. when the budget is reached or the API key is
    wrong.
    """
    flying: dict[int, T] = {}

    def requests() -> Iterator[Request]:
        for index, item in enumerate(items):
            flying[index] = item
            yield request(item)

    for index, answer in engine.stream(requests(), total=total, progress=progress, **sampling):
        used.take(answer)
        yield flying.pop(index), answer


class Spool(Generic[A]):
    """Values on disk, several under each number, read in the order of the numbers.

    folder: where its unnamed file is. kind: the values' type, for msgspec.
    """

    def __init__(self, folder: Path, kind: type[A]) -> None:
        self._file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (open as long as the spool)
        self._last = array("q")  # number → start of its newest record; -1: none
        self._counts = array("I")
        self._decode = msgspec.msgpack.Decoder(tuple[int, kind])  # type: ignore[valid-type]
        self._encode = msgspec.msgpack.Encoder()

    def add(self, number: int, value: A) -> None:
        """Add a value under a number, after earlier ones."""
        if missing := number + 1 - len(self._last):
            self._last.extend([-1] * max(0, missing))
            self._counts.extend([0] * max(0, missing))
        content = self._encode.encode((self._last[number], value))
        self._last[number] = self._file.seek(0, 2)
        self._counts[number] += 1
        self._file.write(len(content).to_bytes(4, "little") + content)

    def count(self, number: int) -> int:
        """The number of values under a number."""
        return self._counts[number] if number < len(self._counts) else 0

    def of(self, number: int) -> list[A]:
        """The values under a number, in the order in which they were added."""
        values: list[A] = []
        place = self._last[number] if number < len(self._last) else -1
        while place >= 0:
            self._file.seek(place)
            size = int.from_bytes(self._file.read(4), "little")
            place, value = self._decode.decode(self._file.read(size))
            values.append(value)
        return values[::-1]

    def __iter__(self) -> Iterator[tuple[int, A]]:
        """(number, value), in order of the numbers."""
        for number, count in enumerate(self._counts):
            if count:
                yield from ((number, value) for value in self.of(number))

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()
