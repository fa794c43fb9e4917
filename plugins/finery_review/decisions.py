"""Decisions of human review: the lines of `reviews/<step>.jsonl`, and what they change."""

import codecs
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

import msgspec
from blake3 import blake3

from finery import DataError
from finery.rows import NOT_CONTENT, Row, is_preference
from finery.rows.chat.turns import turn_problems
from finery.rows.parts import prompt_text, replace_content

Action = Literal["accept", "reject", "edit", "swap", "note", "undo"]
UNDECIDING_ACTIONS = frozenset({"note", "undo"})
"""Actions that leave a row undecided: a comment, and undoing a decision."""
TIME_PATTERN = r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)?$"
_MARK = codecs.BOM_UTF8
_LINE_START = b'{"id":"'
_MERGE_MARKERS = (b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>")


class Decision(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A person's decision on a row: one line of the file.

    id: of the row. set: for an edit, column → its new value, None to remove it. at: UTC.
    prompt, parents: a hash of the row's prompt, and the rows that it was made from. When the row
    and so its id changes, they identify the new row.
    """

    id: str
    do: Action
    set: dict[str, Any] | None = None
    reason: str = ""
    by: str = ""
    at: Annotated[str, msgspec.Meta(pattern=TIME_PATTERN)] = ""
    prompt: str = ""
    parents: list[str] = []

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("its `id` is empty")
        if (self.do == "edit") != bool(self.set):
            raise ValueError("`set` with columns must be present for an edit, and only for an edit")
        if NOT_CONTENT & set(self.set or ()):
            raise ValueError("`set` can't change a row's id or parents")

    @property
    def decides(self) -> bool:
        """Whether the row is decided."""
        return self.do not in UNDECIDING_ACTIONS


def as_line(decision: Decision) -> bytes:
    """The decision as a line of the file, in a fixed order of fields."""
    return msgspec.json.encode(decision) + b"\n"


def token_of(decision: Decision | None) -> str:
    """Identifies a decision, so that a window can say which one it has seen; empty for none."""
    return blake3(as_line(decision)).hexdigest()[:16] if decision else ""


def parse(content: bytes, name: str, lines_before: int = 0) -> tuple[list[Decision], bytes]:
    """The decisions in a file's content, and the rest of an incomplete last line.

    A writer that dies while writing leaves a last line without its end. That decision was never
    acknowledged. name: of the file, for messages; before: its lines before the content. Raises
    `DataError` for any other broken line.
    """
    start = content.removeprefix(_MARK) if not lines_before else content
    *lines, last_line = start.split(b"\n")
    numbered = enumerate(lines, lines_before + 1)
    decisions = [_decision(line, f"{name}:{number}") for number, line in numbered if line.strip()]
    if _is_torn(last_line):
        return decisions, last_line
    if last_line.strip():
        decisions.append(_decision(last_line, f"{name}:{lines_before + len(lines) + 1}"))
    return decisions, b""


def _is_torn(last_line: bytes) -> bool:
    """Whether a last line is the beginning of one that `as_line` makes, not one edited by hand."""
    if not (last_line.startswith(_LINE_START) or (last_line and _LINE_START.startswith(last_line))):
        return False
    try:
        msgspec.json.decode(last_line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return True
    return False


def decode(line: bytes) -> Decision:
    """The decision in a line. Raises `MsgspecError` or `UnicodeDecodeError` if there is none."""
    return msgspec.json.decode(line, type=Decision)


def _decision(line: bytes, where: str) -> Decision:
    try:
        return decode(line)
    except UnicodeDecodeError as error:
        raise DataError(
            f"isn't UTF-8: {error.reason}", where=where, fix="save the file as UTF-8"
        ) from None
    except (msgspec.MsgspecError, RecursionError) as error:
        if line.startswith(_MERGE_MARKERS):
            raise DataError(
                "a git merge wasn't finished here",
                where=where,
                fix="delete the lines that begin with <, |, = and >; the decisions of both sides "
                "can stay: the latest on each row counts",
            ) from None
        raise DataError(
            f"isn't a decision: {error}", where=where, fix="correct the line, or delete it"
        ) from None


class Standing:
    """The current decision on each row: the latest one; of those with the same time, the last.

    A line without a time counts by its place. So the order of lines,
    which git decides in a union merge of two branches, matters only within a second.
    """

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        self._by_row: dict[str, tuple[str, Decision]] = {}
        for decision in decisions:
            self.add(decision)

    def add(self, decision: Decision) -> None:
        """Take the next line of the file into account."""
        previous_time = self.time_of(decision.id)
        if not decision.at or decision.at >= previous_time:
            self._by_row[decision.id] = (decision.at or previous_time, decision)

    def of(self, row: str) -> Decision | None:
        """The current decision or note for a row; None if there is none."""
        entry = self._by_row.get(row)
        return None if entry is None or entry[1].do == "undo" else entry[1]

    def time_of(self, row: str) -> str:
        """The time of the last decision on the row; empty if there is none."""
        return self._by_row.get(row, ("",))[0]

    def __iter__(self) -> Iterator[Decision]:
        return (decision for _, decision in self._by_row.values() if decision.do != "undo")


def prompt_hash(row: Row) -> str:
    """A 16-digit hash of the row's prompt, which identifies a row whose answer has changed.

    Empty where the row has no prompt.
    """
    try:
        text = prompt_text(row) if "text" not in row else ""
    except (AttributeError, KeyError, TypeError):  # invalid turns
        text = ""
    return blake3(text.encode()).hexdigest()[:16] if text.strip() else ""


def parents_of(row: Row) -> tuple[str, ...]:
    """The ids of the rows that a row was made from."""
    parents = row.get("parents")
    return tuple(map(str, parents)) if isinstance(parents, list) else ()


class Earlier:
    """Decisions on rows that no longer exist, found by the rows that replaced them."""

    def __init__(self, decisions: Iterable[Decision]) -> None:
        ordered = sorted((d for d in decisions if d.decides), key=lambda d: d.at)
        self.count = len(ordered)
        self._by_id = {d.id: d for d in ordered}
        self._by_prompt = {d.prompt: d for d in ordered if d.prompt}
        self._by_parents = {tuple(d.parents): d for d in ordered if d.parents}

    def of(self, parents: Iterable[str], prompt: str) -> Decision | None:
        """The decision on a row before it changed: on a parent, or by the same prompt."""
        ids = tuple(parents)
        if not self.count:
            return None
        own_decisions = [self._by_id[i] for i in ids if i in self._by_id]
        like = [self._by_prompt.get(prompt), self._by_parents.get(ids)]
        return next((d for d in [*own_decisions, *like] if d is not None), None)


def on_rows_gone(count: int) -> str:
    """A sentence about decisions on rows that no longer exist."""
    if count == 1:
        return "1 decision is on a row that no longer exists"
    return f"{count:,} decisions are on rows that no longer exist"


def apply_decision(row: Row, decision: Decision) -> Row | None:
    """The row after a decision; None if it is rejected.

    A changed row has a new id and the old one as its parent. Raises `DataError` if the decision
    doesn't fit the row, or produces unusable turns.
    """
    if decision.do == "reject":
        return None
    if decision.do == "swap":
        if not is_preference(row):
            raise DataError(
                "the row has no `chosen` and `rejected` to swap", fix="accept it, or reject it"
            )
        return replace_content(row, {**row, "chosen": row["rejected"], "rejected": row["chosen"]})
    if decision.do == "edit":
        values = {**row, **(decision.set or {})}
        edited = replace_content(
            row, {name: value for name, value in values.items() if value is not None}
        )
        problems_before = turn_problems(row)
        if isinstance(edited.get("messages"), str):
            raise DataError("'messages' is text, not a list of turns", fix="edit the row again")
        broken = [
            problem
            for check, problem in turn_problems(edited)
            if (check, problem) not in problems_before
        ]
        if broken:
            raise DataError("; ".join(broken), fix="edit the row again")
        return edited
    return row
