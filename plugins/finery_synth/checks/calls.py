"""Tool calls of a teacher: a row can only teach those that a tool would take."""

from functools import lru_cache
from typing import Any

import msgspec

from finery import DataError
from finery.rows.answers.answerschema import AnswerSchema
from finery.rows.answers.jsonvalues import NotJson, parse
from finery_synth.generator import Rejected

REASON = "tool-call"


def check_calls(calls: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> None:
    """Raise `Rejected` for the first call that none of the tools offered takes.

    A call must name one, with arguments that are a JSON object and fit its `parameters`.
    `DataError` where those are no JSON Schema.
    """
    known = dict(_named(tool) for tool in tools or ())
    for call in calls:
        name, arguments = _taken_apart(call)
        if name not in known:
            offered = f"offered are {', '.join(known)}" if known else "none is offered"
            raise Rejected(REASON, f"it calls the tool {name!r:.80}; {offered}")
        if problem := _problem(name, known[name], arguments):
            raise Rejected(REASON, f"the arguments of {name} don't fit: {problem}")


def _named(tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, parameters) of a tool, with or without `function` around it."""
    function = tool.get("function", tool)
    return str(function.get("name")), function.get("parameters") or {}


def _taken_apart(call: Any) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of a call; arguments are JSON, in a text or as they are."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Rejected(REASON, "a tool call names no function")
    name, arguments = function["name"], function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = parse(arguments)
        except NotJson as error:
            raise Rejected(REASON, f"the arguments of {name} are {error}") from None
    if not isinstance(arguments, dict):
        raise Rejected(REASON, f"the arguments of {name} are no JSON object")
    return name, arguments


def _problem(name: str, parameters: dict[str, Any], arguments: dict[str, Any]) -> str:
    try:
        found = _schema(msgspec.json.encode(parameters)).problem(arguments)
    except DataError as error:
        raise DataError(
            f"the parameters of the tool '{name}' are no JSON Schema: {error.what}",
            where="tools",
            fix="repair the column `tools` of the rows",
        ) from None
    return "" if found is None else found.text


@lru_cache(maxsize=1000)
def _schema(parameters: bytes) -> AnswerSchema:
    return AnswerSchema(msgspec.json.decode(parameters))
