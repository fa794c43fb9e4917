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
TURN_TEXTS = ("system", "user", "assistant")
TURN_AND_TOOL_COLUMNS = frozenset({*TURN_COLUMNS, "tools"})
"""Columns that the texts of a row are taken from."""
STANDARD_COLUMNS = TURN_AND_TOOL_COLUMNS | NOT_CONTENT
"""Columns with a meaning of their own in a `Dataset`."""
NOT_TEXT = NOT_CONTENT | {"tools"}
"""Columns without text of the row's own."""
ANSWER_NAMES = ("output", "answer")
"""Names that settings may use for the text of the answer, unless a column has that name."""
TEXT_NAMES = frozenset({*TURN_TEXTS, *ANSWER_NAMES, "chosen", "rejected"})
"""All names that `text_by_name` has for texts, besides those of columns."""


def read_numbered(
    job: "Job", datasets: "Sequence[Dataset]", unit: str = "rows"
) -> Iterator[tuple[int, Row]]:
    """(number, row) of all rows, numbered from 1 across data sets. Reports the job's progress."""
    total = sum(len(dataset) for dataset in datasets)
    number = 0
    for dataset in datasets:
        for row in dataset:
            if number % PROGRESS_EVERY == 0:
                job.progress(number, total, f"{number:,} {unit}")
            number += 1
            yield number, row
    job.progress(total, total, f"{total:,} {unit}")


def row_label(number: int, row: Row) -> str:
    """The name of a row in messages."""
    return f"row {number} (id {row_id_of(row)})"


def row_id_of(row: Row) -> str:
    """The row's id."""
    return str(row.get("id") or row_id(row))


def is_conversation(row: Row) -> bool:
    """Whether the row has turns; else it is a document or bare columns."""
    return "messages" in row or "prompt" in row


def row_texts(row: Row) -> dict[str, str]:
    """The texts of a row by name; only those that it has.

    `system`: the system prompt. `user`: the last user turn. `assistant`: the answer. `chosen` and
    `rejected`: the two answers of a preference; `chosen` is also `assistant`.
    """
    if not is_conversation(row):
        return {}
    turns = Turns.of(row)
    last_turns = {turn["role"]: text_of(turn) for turn in turns.prompt}
    named_texts = {role: last_turns[role] for role in TURN_TEXTS[:2] if role in last_turns}
    if turns.answer:
        named_texts["assistant"] = join_turns(turns.answer)
    if turns.rejected is not None:
        named_texts |= {"chosen": join_turns(turns.answer), "rejected": join_turns(turns.rejected)}
    return named_texts


def template_variables(row: Row) -> dict[str, Any]:
    """The variables of templates and expressions: columns, the row's texts, and `row` itself.

    A text hides a column of the same name, e.g. `user`, which remains available as `row["user"]`.
    """
    return {**row, **dict.fromkeys(TURN_TEXTS, ""), **row_texts(row), "row": row}


def text_by_name(row: Row, name: str) -> str | None:
    """The text called `name`: one of `row_texts`, or else a column; None if the row has neither.

    In a conversation, a missing system prompt or answer is the empty text.
    """
    named_texts = row_texts(row)
    if name in named_texts:
        return named_texts[name]
    value = row.get(name)
    if value is None and is_conversation(row):
        if name in TURN_TEXTS:
            return ""
        return answer_or_none(row) if name in ANSWER_NAMES else None
    if value is None:
        return None
    return value if isinstance(value, str) else json_text(value)


def answer_or_none(row: Row) -> str | None:
    """The text of the answer; None if it is missing or empty."""
    return row_texts(row).get("assistant") or None


def prompt_text(row: Row) -> str:
    """The turns before the answer as one text, without the system prompt if there are others.

    Of a document, its text; of any other row, nothing.
    """
    if not is_conversation(row):
        return str(row.get("text") or "")
    turns = Turns.of(row).prompt
    return join_turns([m for m in turns if m["role"] != "system"] or turns)


def join_turns(turns: Conversation) -> str:
    """The texts of some turns, one below the other."""
    return "\n".join(text_of(turn) for turn in turns)


def text_of(message: Message | None) -> str:
    """A turn's text, with its tool calls as JSON."""
    content = (message or {}).get("content") or ""
    text = content if isinstance(content, str) else json_text(content)
    calls = (message or {}).get("tool_calls")
    return text + json_text(calls) if calls else text


def json_text(value: Any) -> str:
    """A value as JSON."""
    return msgspec.json.encode(value).decode()


def canonical_json(value: Any) -> str:
    """A value as JSON with sorted keys, so that equal values give equal text."""
    return msgspec.json.encode(value, order="deterministic").decode()


def labelled_turns(row: Row) -> Iterator[tuple[str, str]]:
    """(role, text) of each turn of a row, with the answers of a preference as `chosen`, `rejected`.

    Of a row that isn't a conversation, (name, text) of each column.
    """
    if not is_conversation(row):
        for name, value in row.items():
            if name not in NOT_CONTENT:
                yield name, value if isinstance(value, str) else json_text(value)
        return
    turns = Turns.of(row)
    for turn in turns.conversation if turns.rejected is None else turns.prompt:
        yield str(turn["role"]), text_of(turn)
    if turns.rejected is not None:
        yield "chosen", join_turns(turns.answer)
        yield "rejected", join_turns(turns.rejected)


def replace_content(row: Row, columns: Mapping[str, Any]) -> Row:
    """The row with its new content: a new id and the old one as parent; else the old row."""
    content = {k: v for k, v in columns.items() if k not in NOT_CONTENT}
    new_id = row_id(content)
    if new_id == row_id(row):
        return row
    return {"id": new_id, **content, "parents": [row_id_of(row)]}


def missing_text_error(setting: str, name: str, number: int, row: Row) -> DataError:
    """The error for a row without the text or column that a setting names."""
    choices = [*row_texts(row), *(c for c in row if c not in STANDARD_COLUMNS)]
    problem = f"{setting}: the row has no '{name}'" if name not in row else f"{setting}: it is null"
    return DataError(problem, where=row_label(number, row), fix=did_you_mean(name, choices))


def per_text_setting(description: str, example: Mapping[str, Any], column_of: str = "rows") -> Any:
    """A setting that maps texts or columns to something.

    description: e.g. `minimum number of characters`. column_of: see `setting`; empty if the rows
    don't exist before the step runs.
    """
    return setting(
        {}, column_of=column_of, help=f"Text or column: {description}.", examples=[example]
    )


def check_lengths(
    minimums: Mapping[str, int], maximums: Mapping[str, int], within: str = ""
) -> None:
    """Raise `UsageError` for limits that are negative or contradict each other.

    minimums, maximums: the values of `min_characters` and `max_characters`. within: the setting
    that contains them, followed by a dot.
    """
    for field, limits in (("min_characters", minimums), ("max_characters", maximums)):
        for name, limit in limits.items():
            if limit < 0:
                raise UsageError(
                    f"{field} must be 0 or more, but is {limit:,}",
                    where=f"{within}{field}.{name}",
                    fix="write 0 or more",
                )
    for name in minimums.keys() & maximums.keys():
        if minimums[name] > maximums[name]:
            raise UsageError(
                f"the minimum length of '{name}', {minimums[name]:,} characters, is greater than "
                f"the maximum, {maximums[name]:,}",
                where=f"{within}min_characters.{name}",
                fix="swap the two limits, or remove one",
            )
