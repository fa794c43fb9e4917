"""Rows as the transforms read them: their texts by name, and streams of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from finery.errors import DataError, UsageError
from finery.fields import setting
from finery.rows.row import NOT_CONTENT, TURN_COLUMNS, Conversation, Message, Row, Turns, row_id
from finery.util.text import did_you_mean

if TYPE_CHECKING:
    from finery.artifact.kinds import Dataset
    from finery.step.job import Job


PROGRESS_EVERY = 2_000
TURNS = ("system", "user", "assistant")
OWN = frozenset({*TURN_COLUMNS, "tools"})
"""Columns that the texts of a row are taken from."""
OWN_COLUMNS = OWN | NOT_CONTENT
"""Columns with a meaning of their own in a `Dataset`."""
NOT_TEXT = NOT_CONTENT | {"tools"}
"""Columns without text of the row's own."""
ANSWERS = ("output", "answer")
"""Names that settings may use for the text of the answer, unless a column has that name."""
TEXTS = frozenset({*TURNS, *ANSWERS, "chosen", "rejected"})
"""All names that `text_named` has for texts, besides those of columns."""


def read(
    job: "Job", datasets: "Sequence[Dataset]", what: str = "rows"
) -> Iterator[tuple[int, Row]]:
    """(number, row) of all rows, numbered from 1 across data sets. Reports the job's progress."""
    total = sum(len(dataset) for dataset in datasets)
    number = 0
    for dataset in datasets:
        for row in dataset:
            if number % PROGRESS_EVERY == 0:
                job.progress(number, total, f"{number:,} {what}")
            number += 1
            yield number, row
    job.progress(total, total, f"{total:,} {what}")


def named(number: int, row: Row) -> str:
    """The name of a row in messages."""
    return f"row {number} (id {id_of(row)})"


def id_of(row: Row) -> str:
    """The row's id."""
    return str(row.get("id") or row_id(row))


def is_conversation(row: Row) -> bool:
    """Whether the row has turns; else it is a document or bare columns."""
    return "messages" in row or "prompt" in row


def texts(row: Row) -> dict[str, str]:
    """The texts of a row by name; only those that it has.

    `system`: the system prompt. `user`: the last user turn. `assistant`: the answer. `chosen` and
    `rejected`: the two answers of a preference; `chosen` is also `assistant`.
    """
    if not is_conversation(row):
        return {}
    turns = Turns.of(row)
    last = {turn["role"]: text_of(turn) for turn in turns.prompt}
    parts = {role: last[role] for role in TURNS[:2] if role in last}
    if turns.answer:
        parts["assistant"] = joined(turns.answer)
    if turns.rejected is not None:
        parts |= {"chosen": joined(turns.answer), "rejected": joined(turns.rejected)}
    return parts


def scope(row: Row) -> dict[str, Any]:
    """The variables of templates and expressions: columns, the row's texts, and `row` itself.

    A text hides a column of the same name, e.g. `user`, which remains available as `row["user"]`.
    """
    return {**row, **dict.fromkeys(TURNS, ""), **texts(row), "row": row}


def text_named(row: Row, name: str) -> str | None:
    """The text called `name`: one of `texts`, or else a column; None if the row has neither.

    In a conversation, a missing system prompt or answer is the empty text.
    """
    parts = texts(row)
    if name in parts:
        return parts[name]
    value = row.get(name)
    if value is None and is_conversation(row):
        if name in TURNS:
            return ""
        return answer(row) if name in ANSWERS else None
    if value is None:
        return None
    return value if isinstance(value, str) else compact(value)


def answer(row: Row) -> str | None:
    """The text of the answer; None if it is missing or empty."""
    return texts(row).get("assistant") or None


def prompt(row: Row) -> str:
    """The turns before the answer as one text, without the system prompt if there are others.

    Of a document, its text; of any other row, nothing.
    """
    if not is_conversation(row):
        return str(row.get("text") or "")
    turns = Turns.of(row).prompt
    return joined([m for m in turns if m["role"] != "system"] or turns)


def joined(turns: Conversation) -> str:
    """The texts of some turns, one below the other."""
    return "\n".join(text_of(turn) for turn in turns)


def text_of(message: Message | None) -> str:
    """A turn's text, with its tool calls as JSON."""
    content = (message or {}).get("content") or ""
    text = content if isinstance(content, str) else compact(content)
    calls = (message or {}).get("tool_calls")
    return text + compact(calls) if calls else text


def compact(value: Any) -> str:
    """A value as JSON."""
    return msgspec.json.encode(value).decode()


def canonical(value: Any) -> str:
    """A value as JSON with sorted keys, so that equal values give equal text."""
    return msgspec.json.encode(value, order="deterministic").decode()


def turns_of(row: Row) -> Iterator[tuple[str, str]]:
    """(role, text) of each turn of a row, with the answers of a preference as `chosen`, `rejected`.

    Of a row that isn't a conversation, (name, text) of each column.
    """
    if not is_conversation(row):
        for name, value in row.items():
            if name not in NOT_CONTENT:
                yield name, value if isinstance(value, str) else compact(value)
        return
    turns = Turns.of(row)
    for turn in turns.conversation if turns.rejected is None else turns.prompt:
        yield str(turn["role"]), text_of(turn)
    if turns.rejected is not None:
        yield "chosen", joined(turns.answer)
        yield "rejected", joined(turns.rejected)


def changed(old: Row, new: Mapping[str, Any]) -> Row:
    """The row with its new content: a new id and the old one as parent; else the old row."""
    content = {k: v for k, v in new.items() if k not in NOT_CONTENT}
    new_id = row_id(content)
    if new_id == row_id(old):
        return old
    return {"id": new_id, **content, "parents": [id_of(old)]}


def no_text(setting: str, name: str, number: int, row: Row) -> DataError:
    """The error for a row without the text or column that a setting names."""
    known = [*texts(row), *(c for c in row if c not in OWN_COLUMNS)]
    what = f"{setting}: the row has no '{name}'" if name not in row else f"{setting}: it is null"
    return DataError(what, where=named(number, row), fix=did_you_mean(name, known))


def by_text(what: str, example: Mapping[str, Any], column_of: str = "rows") -> Any:
    """A setting that maps texts or columns to something. what: e.g. `minimum number of characters`.

    column_of: see `setting`; empty if the rows don't exist before the step runs.
    """
    return setting({}, column_of=column_of, help=f"Text or column: {what}.", examples=[example])


def check_lengths(fewest: Mapping[str, int], most: Mapping[str, int], within: str = "") -> None:
    """Raise `UsageError` for limits that are negative or contradict each other.

    fewest, most: the values of `min_characters` and `max_characters`. within: the setting that
    contains them, followed by a dot.
    """
    for field, limits in (("min_characters", fewest), ("max_characters", most)):
        for name, limit in limits.items():
            if limit < 0:
                raise UsageError(
                    f"{field} must be 0 or more, but is {limit:,}",
                    where=f"{within}{field}.{name}",
                    fix="write 0 or more",
                )
    for name in fewest.keys() & most.keys():
        if fewest[name] > most[name]:
            raise UsageError(
                f"the minimum length of '{name}', {fewest[name]:,} characters, is greater than the "
                f"maximum, {most[name]:,}",
                where=f"{within}min_characters.{name}",
                fix="swap the two limits, or remove one",
            )
