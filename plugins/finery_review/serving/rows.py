"""The reviewed rows: their file, search and order, and what steps wrote about them."""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import msgspec

from finery import Dataset, UsageError
from finery.advanced import did_you_mean
from finery.rows import Row, answer_text, is_preference
from finery.rows.dropped import FINDINGS
from finery.rows.generated import GENERATED
from finery.rows.parts import NOT_TEXT, row_id_of
from finery_data.checks.audits import AUDIT
from finery_review.decisions import parents_of, prompt_hash

LONGEST_CLASS = 100
"""Characters of an answer that may be a class."""
MOST_CLASSES = 500


class RowFile:
    """Rows by number, from 0. Keeps the files open, so that a new build can't remove them.

    ids, labels: of each row; a label is None if it is missing or isn't text. If no row has a label,
    and the answers are classes, these are the labels, and `answers_are_labels` is true. Some 200
    bytes of each row stay in memory.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.ids: list[str] = []
        self.labels: list[str | None] = []
        self._answers: list[str | None] = []
        self._parents: dict[int, tuple[str, ...]] = {}
        self._prompts: dict[int, str] = {}
        self._numbers: dict[str, list[int]] = {}
        self._shards: list[BinaryIO] = []
        self._shard, self._start, self._length = array("H"), array("Q"), array("Q")
        self.preferences = 0
        self.scored = False
        for path in sorted(dataset.path.glob("rows-*.jsonl")):
            self._add(path.open("rb"))
        answers = Counter(answer for answer in self._answers if answer is not None)
        self.answers_are_labels = (
            not any(self.labels)
            and 0 < len(answers) <= MOST_CLASSES
            and 2 * len(answers) <= answers.total()
        )
        if self.answers_are_labels:
            self.labels = self._answers
        self._answers = []

    def label_of(self, row: Row) -> str | None:
        """The label of a row, also of an edited one."""
        label = class_of(row) if self.answers_are_labels else row.get("label")
        return label if isinstance(label, str) else None

    def _add(self, shard: BinaryIO) -> None:
        self._shards.append(shard)
        start = 0
        for line in shard:
            row = msgspec.json.decode(line)
            number, name, label = len(self.ids), row_id_of(row), row.get("label")
            self.ids.append(name)
            self._numbers.setdefault(name, []).append(number)
            self.labels.append(label if isinstance(label, str) else None)
            self._answers.append(class_of(row))
            parents = parents_of(row)
            if parents:
                self._parents[number] = parents
            self.preferences += is_preference(row)
            self.scored |= "score" in row or "judge" in row
            self._shard.append(len(self._shards) - 1)
            self._start.append(start)
            self._length.append(len(line))
            start += len(line)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> Row:
        row: Row = msgspec.json.decode(self.raw(number))
        return row

    def raw(self, number: int) -> bytes:
        """The row's line."""
        shard = self._shards[self._shard[number]]
        return os.pread(shard.fileno(), self._length[number], self._start[number])

    def numbers(self, row_id: str) -> list[int]:
        """The rows with this id; copies of a row share one."""
        return self._numbers.get(row_id, [])

    def parents(self, number: int) -> tuple[str, ...]:
        """The ids of the rows that a row was made from."""
        return self._parents.get(number, ())

    def names(self, number: int) -> tuple[str, ...]:
        """The ids of a row and of the rows that it was made from."""
        return self.ids[number], *self.parents(number)

    def prompt(self, number: int) -> str:
        """`prompt_hash` of a row, computed when it is first needed."""
        if number not in self._prompts:
            self._prompts[number] = prompt_hash(self[number])
        return self._prompts[number]

    def label_counts(self) -> dict[str, int]:
        """Label → rows, the most frequent first."""
        counts = Counter(label for label in self.labels if label is not None)
        return dict(counts.most_common())

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def close(self) -> None:
        """Close the files."""
        for shard in self._shards:
            shard.close()


def class_of(row: Row) -> str | None:
    """The answer, if it may be the name of a class."""
    try:
        answer = "" if "rejected" in row else answer_text(row).strip()
    except (AttributeError, KeyError, TypeError):  # invalid turns
        return None
    return answer if is_class(answer) else None


def is_class(answer: str) -> bool:
    """Whether an answer may be the name of a class."""
    return 0 < len(answer) <= LONGEST_CLASS and "\n" not in answer and answer[0] not in "{["


class Search:
    """Which rows contain a text, ignoring case. The result of the last search is remembered."""

    def __init__(self, rows: RowFile) -> None:
        self._rows = rows
        self._text = ""
        self._found: dict[int, bool] = {}

    def has(self, number: int, text: str) -> bool:
        """Whether the row's turns, columns or id hold the text."""
        if text != self._text:
            self._text, self._found = text, {}
        if number not in self._found:
            self._found[number] = self._holds(number, text.casefold())
        return self._found[number]

    def _holds(self, number: int, text: str) -> bool:
        needs_no_escape = text.isprintable() and not set(text) & set('"\\/')
        if needs_no_escape and text not in self._rows.raw(number).decode().casefold():
            return False  # quick, and enough for nearly all rows without it
        return text in self._rows.ids[number] or holds(self._rows[number], text)


def holds(row: Row, text: str) -> bool:
    """Whether the visible parts of a row contain a text, which is casefolded."""
    values = (value for name, value in row.items() if name not in NOT_TEXT)
    return any(text in string.casefold() for value in values for string in _within(value))


def _within(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("role", "type"):
                yield from _within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _within(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


NOT_SHOWN = frozenset({"id", "row"})


KINDS = {GENERATED: "generated", FINDINGS: "findings", AUDIT: "audit"}
"""Sidecar file → what its lines are called."""


class _Line(msgspec.Struct):
    """The row of a line, and what a finding or an audit says. All else is skipped."""

    id: str
    check: str = ""
    suspicion: float = 0.0
    label: str | None = None
    proposed: str = ""


class About:
    """The lines of sidecar files by row id. A line is read when its row is looked at.

    folders: of the reviewed data set and of those that it was made from, the nearest first.
    checks: row → the checks of its findings. suspicion: row → that of its most suspicious label.
    proposals: answers that are proposed for rows without one → rows.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._files: list[tuple[str, BinaryIO]] = []
        self._lines: dict[str, list[tuple[int, int, int]]] = {}  # id → (file, start, length)
        self.has_generated = False
        self.checks: dict[str, set[str]] = {}
        self.suspicion: dict[str, float] = {}
        self.proposals = Counter[str]()
        for folder in folders:
            for name in KINDS:
                if (folder / name).is_file():
                    self._add(name, (folder / name).open("rb"))

    def _add(self, name: str, file: BinaryIO) -> None:
        self._files.append((name, file))
        self.has_generated |= name == GENERATED
        start = 0
        for line in file:
            with suppress(msgspec.MsgspecError, RecursionError):  # belongs to no row
                read = msgspec.json.decode(line, type=_Line)
                place = (len(self._files) - 1, start, len(line))
                self._lines.setdefault(read.id, []).append(place)
                if name == FINDINGS:
                    self.checks.setdefault(read.id, set()).add(read.check)
                elif name == AUDIT:
                    most = self.suspicion.get(read.id, 0.0)
                    self.suspicion[read.id] = max(most, read.suspicion)
                    if read.label == "" and read.proposed:
                        self.proposals[read.proposed] += 1
            start += len(line)

    def of(self, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Lines by what they are called (`KINDS`), of the first of these ids that has any.

        For a row that was only judged there, also how it was generated before.
        """
        lines: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS.values()}
        waiting, visited = list(ids), set[str]()
        while waiting:
            row = waiting.pop(0)
            visited.add(row)
            for name, line in self._of(row):
                kind = lines[KINDS[name]]
                if line not in kind:
                    kind.append(line)
            if any(lines.values()) and not _is_only_judged(lines["generated"]):
                break
            parents = [p for line in lines["generated"] for p in line.get("parents", ())]
            waiting += [parent for parent in parents if parent not in visited]
        return lines

    def _of(self, row: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for index, start, length in self._lines.get(row, ()):
            name, file = self._files[index]
            line = msgspec.json.decode(os.pread(file.fileno(), length, start))
            yield name, {key: value for key, value in line.items() if key not in NOT_SHOWN}

    def close(self) -> None:
        """Close the files."""
        for _, file in self._files:
            file.close()


def score_of(lines: Iterable[dict[str, Any]]) -> float | None:
    """The score that a judge gave a row, from its sidecar lines and its own columns."""
    for line in lines:
        judge = line.get("judge")
        for value in (line.get("score"), judge.get("score") if isinstance(judge, dict) else None):
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value if isfinite(value) else None
    return None


def failed_of(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the checks that a row failed, each once."""
    names = dict[str, None]()
    for line in lines:
        checks = line.get("checks")
        for check in checks if isinstance(checks, list) else ():
            if isinstance(check, dict) and check.get("passed") is False:
                names[str(check.get("check") or check.get("name") or "check")] = None
    return list(names)


def _is_only_judged(lines: list[dict[str, Any]]) -> bool:
    """Whether these lines contain a judge's score, but not the author of the row."""
    return any("judge" in line for line in lines) and not any("model" in line for line in lines)


Order = Literal["", "lowest", "highest", "suspicious"]
"""As in the data set; the lowest or the highest score first, rows without a score last; suspects of
an audit first."""


class Scores:
    """The scores that a judge gave the rows, read when they are first sorted by and then kept."""

    def __init__(self, rows: RowFile, about: About) -> None:
        self._rows = rows
        self._about = about
        self._scores: list[float | None] | None = None

    def may_exist(self) -> bool:
        """Whether the rows have a column, or files next to them, that can contain a score."""
        return self._rows.scored or self._about.has_generated

    def sort(self, numbers: Iterable[int], order: str) -> list[int]:
        """Row numbers in an order. Rows with equal scores keep theirs."""
        if order not in get_args(Order):
            orders = [name for name in get_args(Order) if name]
            raise UsageError(f"there is no order '{order}'", fix=did_you_mean(order, orders))
        if not order:
            return list(numbers)
        if order == "suspicious":
            return sorted(numbers, key=lambda number: -self.suspicion(number))
        sign = -1 if order == "highest" else 1
        if self._scores is None:
            self._scores = [self._of(number) for number in range(len(self._rows))]
        scores = self._scores

        def place(number: int) -> tuple[bool, float]:
            score = scores[number]
            return score is None, sign * (score or 0.0)

        return sorted(numbers, key=place)

    def suspicion(self, number: int) -> float:
        """How suspicious a row's label is, by an audit."""
        return max(self._about.suspicion.get(row, 0.0) for row in self._rows.names(number))

    def _of(self, number: int) -> float | None:
        lines = self._about.of(self._rows.names(number))["generated"]
        return score_of([self._rows[number], *lines])
