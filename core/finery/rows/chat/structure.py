"""Finds problems in the turns of a row: their format, their order, empty turns."""

from collections.abc import Iterator
from typing import Any

from finery.rows.badrow import BadRow, kind_of
from finery.rows.chat.turns import as_message, check_turns
from finery.rows.row import TURN_COLUMNS, Row, as_turns

Problem = tuple[str, str]
"""(name of the check, what it found)."""


def problems_of(row: Row) -> list[Problem]:
    """Every empty turn as `empty`, and what else is wrong with the turns as `turns`."""
    columns = {name: row[name] for name in TURN_COLUMNS if row.get(name) is not None}
    if not columns:
        there = isinstance(row.get("text"), str)
        return [] if there else [("turns", "it has neither turns nor a text")]
    problems = [problem for name, value in columns.items() for problem in _column(name, value)]
    if any(check == "turns" for check, _ in problems):
        return problems
    return [*problems, *_order(columns)]


def _column(name: str, value: Any) -> Iterator[Problem]:
    if isinstance(value, str):
        if not value.strip():
            yield "empty", f"'{name}' is empty"
        return
    if not isinstance(value, list):
        yield "turns", f"'{name}' is {kind_of(value)}, but must be text or a list of turns"
        return
    if not value:
        yield "turns", f"'{name}' has no turns"
    for number, turn in enumerate(value, 1):
        place = "" if name == "messages" else f"'{name}': "
        if _is_empty(turn):
            yield "empty", f"{place}turn {number} ({turn['role']}) is empty"
            continue
        try:
            as_message(turn, number)
        except BadRow as error:
            yield "turns", f"{place}{error.what}"


def _is_empty(turn: Any) -> bool:
    """Whether a turn that needs content has none. A tool's answer may be empty."""
    if not isinstance(turn, dict) or turn.get("role") not in ("system", "user", "assistant"):
        return False
    content = turn.get("content")
    blank = content is None or (isinstance(content, str) and not content.strip())
    return blank and not any(turn.get(name) for name in ("tool_calls", "function_call", "refusal"))


def _order(columns: dict[str, Any]) -> Iterator[Problem]:
    """Yield the first turn in a wrong place. All turns are well-formed here."""
    prompt = as_turns(columns.get("messages", columns.get("prompt", [])), "user")
    if "messages" in columns:
        yield from _checked("", prompt, answered=prompt[-1]["role"] == "assistant")
        return
    answers = [name for name in TURN_COLUMNS[2:] if name in columns]
    if not answers:
        yield from _checked("'prompt': ", prompt, answered=False)
    for name in answers:
        yield from _checked(f"with '{name}': ", [*prompt, *as_turns(columns[name])], answered=True)


def _checked(place: str, turns: list[Any], *, answered: bool) -> Iterator[Problem]:
    renamed = [{**t, "role": "system"} if t["role"] == "developer" else t for t in turns]
    try:
        check_turns(renamed, answered=answered)
    except BadRow as error:
        yield "turns", f"{place}{error.what}"
