"""Counts over a stream of rows: lengths, classes."""

from array import array
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any

import msgspec

from finery.rows import NOT_CONTENT, Row, Turns, answer_text
from finery.rows.parts import is_conversation, join_turns, json_text

MOST_CLASSES = 1_000
"""Number of values from which on they aren't classes."""
LONGEST_CLASS = 200
"""Characters of a value that may be a class."""
LABELS = ("label",)
"""Columns that name a row's class."""


class Lengths:
    """Lengths of texts, eight bytes each."""

    def __init__(self) -> None:
        self._values = array("L")
        self._is_sorted = True

    def __len__(self) -> int:
        return len(self._values)

    def add(self, length: int) -> None:
        """Note a length."""
        self._values.append(length)
        self._is_sorted = False

    def at(self, share: float) -> int:
        """The length that `share` of the rows don't exceed; 0.5 gives the median."""
        values = self._sorted()
        return values[min(len(values) - 1, int(share * len(values)))]

    def total(self) -> int:
        """All lengths together."""
        return sum(self._values)

    def counts(self, edges: Sequence[int]) -> list[int]:
        """The number of rows in each bin [edge, next edge). The last bin includes its end."""
        places = [bisect_right(self._sorted(), edge - 1) for edge in edges[:-1]]
        places.append(len(self._values))
        return [b - a for a, b in pairwise(places)]

    def _sorted(self) -> "array[int]":
        if not self._is_sorted:
            self._values = array("L", sorted(self._values))
            self._is_sorted = True
        return self._values


class Classes:
    """The classes that rows fall in, by what names them: a label, or the answer and its fields."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}
        self._too_many: set[str] = set()
        self._rows = 0

    def add(self, row: Row) -> None:
        """Note a row."""
        self._rows += 1
        for name, value in _named(row):
            if name in self._too_many or (len(self._counts) > 200 and name not in self._counts):
                continue
            counts = self._counts.setdefault(name, Counter())
            counts[value] += 1
            if len(counts) > MOST_CLASSES or len(value) > LONGEST_CLASS:
                self._too_many.add(name)
                del self._counts[name]

    @staticmethod
    def found(parts: Sequence["Classes"]) -> list[dict[str, Counter[str]]]:
        """Name → class → rows, of each part of the rows.

        A name of which most rows have none, or each another, is none. A part may be too small to
        repeat any class, so they are compared with those of the part that has the most of them.
        """
        most = defaultdict[str, Counter[str]](Counter)
        for name, counts in chain.from_iterable(part._counts.items() for part in parts):
            most[name] |= counts
        found: list[dict[str, Counter[str]]] = []
        for part in parts:
            found.append({})
            for name, counts in part._counts.items():
                often = sum(most[name][value] for value in counts)
                if counts.total() > part._rows / 2 and 2 * len(counts) <= often:
                    found[-1][name] = counts
        with_answer = [one for one in found if "answer" in one]
        # The fields of the answer, or the label, say the same.
        if all(
            one.keys() - {*LABELS, "answer"} or one["answer"] in map(one.get, LABELS)
            for one in with_answer
        ):
            for one in with_answer:
                del one["answer"]
        return found


def lengths_and_classes(
    rows: Iterable[Row],
) -> tuple[dict[str, Lengths], dict[str, Counter[str]]]:
    """(part of a row → lengths in characters, what names classes → class → rows)."""
    lengths, classes = defaultdict[str, Lengths](Lengths), Classes()
    for row in rows:
        classes.add(row)
        for part, text in text_parts(row).items():
            lengths[part].add(len(text))
    return lengths, Classes.found([classes])[0]


def text_parts(row: Row) -> dict[str, str]:
    """The texts of a row whose lengths count: prompt and answer, or what else it has."""
    if not is_conversation(row):
        rest = {k: v for k, v in row.items() if k not in {*NOT_CONTENT, "source"}}
        return {"text": str(row["text"])} if "text" in row else {"row": json_text(rest)}
    turns = Turns.of(row)
    asked, answer = join_turns(turns.prompt), join_turns(turns.answer)
    if turns.rejected is not None:
        return {"prompt": asked, "chosen": answer, "rejected": join_turns(turns.rejected)}
    return {"prompt": asked, **({"answer": answer} if turns.answer else {})}


def _named(row: Row) -> Iterator[tuple[str, str]]:
    """(what names a class, the class) of a row."""
    for name in LABELS:
        value = row.get(name)
        if isinstance(value, str | int | bool):
            yield name, str(value)
    if "rejected" in row or not is_conversation(row):
        return
    answer = answer_text(row).strip()
    if answer:
        yield "answer", answer
        yield from _fields(answer)


def _fields(answer: str) -> Iterator[tuple[str, str]]:
    """(name, value) of an answer that is a JSON object, or lines of `name: value`."""
    if answer.startswith("{"):
        yield from _json_fields(answer)
        return
    pairs = [line.partition(":") for line in answer.splitlines()]
    if len(pairs) <= 12 and all(colon and 0 < len(name) <= 40 for name, colon, _ in pairs):
        yield from ((name.strip(), value.strip()) for name, _, value in pairs)


def _json_fields(answer: str) -> Iterator[tuple[str, str]]:
    try:
        found: Any = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, RecursionError):
        return
    for name, value in found.items() if isinstance(found, dict) else ():
        if isinstance(value, str | int | bool):
            yield str(name), str(value)
