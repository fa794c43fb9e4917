"""Calls in rows that don't match the schema of their tools, or call a tool that isn't offered."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from finery.rows import Conversation, Row
from finery_eval.calls.arguments import branches_of
from finery_eval.calls.calls import BadTools, Call, Tool, Toolbox, Tools, expected_calls, written

OPEN = ("additionalProperties", "patternProperties", "propertyNames", "unevaluatedProperties")
"""Keywords with which a schema says itself which other arguments it takes."""


class Broken(NamedTuple):
    """A fault of the calls in a row.

    turn: its number, from 1; None for the row's tools themselves. reason: in words.
    """

    turn: int | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.turn is None else f"turn {self.turn}: {self.reason}"


class CallChecker:
    """Checks the calls of rows. Rows mostly share their tools, so each tool is read once."""

    def __init__(self) -> None:
        self._toolbox = Toolbox()

    def broken(self, row: Row, messages: Conversation, turns: Iterable[int]) -> list[Broken]:
        """The first fault in each of some turns of a row.

        turns: indices of `messages`. If a tool's schema doesn't mention further arguments, they
        count as forbidden, because models don't know of any.
        """
        calling = [index for index in turns if messages[index].get("tool_calls")]
        if not calling:
            return []
        try:
            tools: Tools = self._toolbox.of(row) if row.get("tools") else {}
        except BadTools as error:
            return [Broken(None, str(error))]
        broken = []
        for index in calling:
            try:
                calls = expected_calls(messages[index], tools, coerce=False)
                reasons = (text for call in calls for text in _unknown(call, tools[call.name]))
                reason = next(reasons, "")
            except BadTools as error:
                reason = str(error)
            broken += [Broken(index + 1, reason)] if reason else []
        return broken


def _unknown(call: Call, tool: Tool) -> Iterator[str]:
    """The arguments of a call that the tool doesn't have."""
    forms: list[dict[str, Any]] = branches_of(tool.schema, tool.schema)
    if any(keyword in form for form in forms for keyword in OPEN):
        return
    known = {name for form in forms for name in form.get("properties", {})}
    for name, value in (call.arguments or {}).items():
        if name not in known:
            yield f"{tool.name} has no argument {name} ({written(value)})"
