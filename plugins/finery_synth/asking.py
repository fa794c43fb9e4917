"""Requests to a model, and what becomes of their answers, with flat memory.

Input: tasks. Output: answers as they arrive, and their content without what a model puts around it,
or why they can't be used. Waiting values are on disk.
"""

import contextlib
import re
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from finery import CachedEngine, Completion, DataError, FineryError, Request
from finery.advanced import RefusedError
from finery.rows import Conversation, Row, row_id
from finery.rows.answers.jsonvalues import NotJson, parse
from finery.rows.generated import Origin
from finery.rows.parts import row_id_of
from finery_eval.calls import BadTools, Toolbox, answered_calls

TOOL_CALL_REASON = "tool-call"
_DASHES = re.compile(r"\s*-{3,}\s*")
"""A line such as those that prompts put around a text."""
QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'"}


class Rejected(Exception):
    """An unusable answer, or a row without usable answers.

    reason: a short name, to count by. detail: what is wrong, for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def usable(
    answer: Completion | FineryError, tools: list[dict[str, Any]] | None, *, cut: bool = False
) -> Completion:
    """The answer if it is usable. Raises `Rejected` otherwise.

    tools: those that the model may call. cut: whether a truncated answer is usable.
    """
    if isinstance(answer, RefusedError):
        text = f": {answer.text}" if answer.text else ""
        raise Rejected("refused", f"{answer.what}{text:.200}")
    if isinstance(answer, FineryError):
        raise Rejected("no-answer", answer.what)
    if answer.is_empty:
        raise Rejected("empty", "the answer is empty")
    if answer.finish_reason == "length" and not cut:
        raise Rejected("cut-off", "the answer was truncated at max_tokens")
    if answer.call_error is not None:
        raise Rejected(TOOL_CALL_REASON, answer.call_error)
    check_calls(answer, tools)
    return answer


def object_schema(**properties: Any) -> dict[str, Any]:
    """The JSON Schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def json_in(text: str) -> Any:
    """The JSON value of a text, or between its outermost brackets; None if there is none."""
    spans = [(text.find(opens), text.rfind(closes)) for opens, closes in ("{}", "[]")]
    inner = [text[start : end + 1] for start, end in sorted(spans) if 0 <= start < end]
    for candidate in (text, *inner):
        with contextlib.suppress(NotJson):
            return parse(candidate)
    return None


def bare(text: str) -> str:
    """A text without the lines of dashes and the quotation marks around it.

    Raises `Rejected` if nothing is left.
    """
    lines = text.strip().split("\n")
    while lines and _DASHES.fullmatch(lines[0]):
        del lines[0]
    while lines and _DASHES.fullmatch(lines[-1]):
        del lines[-1]
    text = "\n".join(lines).strip()
    if len(text) > 1 and QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    if not text:
        raise Rejected("empty", "the answer is empty")
    return text


def check_calls(answer: Completion, tools: list[dict[str, Any]] | None) -> None:
    """Raise `Rejected` for the first call that names none of the tools, or doesn't fit its schema.

    `DataError` for tools that can't be offered.
    """
    functions = [{"function": tool.get("function", tool)} for tool in tools or ()]
    try:
        offered = _toolbox().of({"tools": functions}) if functions else {}
    except BadTools as error:
        fix = "correct the column `tools` of the rows"
        raise DataError(str(error), where="tools", fix=fix) from None
    for call in answered_calls(answer, offered, coerce=False):
        if call.problem is not None:
            names = f"the tools are {', '.join(offered)}" if offered else "there are no tools"
            more = "" if call.name in offered else f"; {names}"
            raise Rejected(TOOL_CALL_REASON, f"the answer: {call.problem.text}{more}")


@cache
def _toolbox() -> Toolbox:
    return Toolbox()


# -- requests and their answers -------------------------------------------------------------------


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


def with_parents(row: Row, seeds: Sequence[Row]) -> Row:
    """The row with its id, and with the ids of its seeds as parents."""
    content = {k: v for k, v in row.items() if k not in ("id", "parents")}
    own_id, parents = row_id(content), [row_id_of(seed) for seed in seeds]
    other_parents = [parent for parent in parents if parent != own_id]
    return {"id": own_id, **content, **({"parents": other_parents} if other_parents else {})}


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
