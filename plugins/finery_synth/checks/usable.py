"""Whether an answer is usable: no error, not truncated, and with valid tool calls."""

from functools import lru_cache
from typing import Any

import msgspec

from finery import Completion, DataError, FineryError, RefusedError
from finery.rows.answers.answerschema import AnswerSchema
from finery.rows.answers.jsonvalues import NotJson, parse

REASON = "tool-call"


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
        raise Rejected(REASON, answer.call_error)
    check_calls(answer.tool_calls or [], tools)
    return answer


def check_calls(calls: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> None:
    """Raise `Rejected` for the first invalid call.

    A call must name one of the tools, with arguments that are a JSON object and fit its
    `parameters`. `DataError` if `parameters` isn't a JSON Schema.
    """
    known = dict(_named(tool) for tool in tools or ())
    for call in calls:
        name, arguments = _name_and_arguments(call)
        if name not in known:
            offered = f"the tools are {', '.join(known)}" if known else "there are no tools"
            raise Rejected(REASON, f"the answer calls the tool {name!r:.80}, but {offered}")
        if problem := _problem(name, known[name], arguments):
            raise Rejected(REASON, f"the arguments of {name} don't fit: {problem}")


def _named(tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(name, parameters) of a tool, with or without `function` around it."""
    function = tool.get("function", tool)
    return str(function.get("name")), function.get("parameters") or {}


def _name_and_arguments(call: Any) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of a call. Arguments are a JSON object, or its text."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Rejected(REASON, "a tool call has no function name")
    name, arguments = function["name"], function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = parse(arguments)
        except NotJson as error:
            raise Rejected(REASON, f"the arguments of {name} are {error}") from None
    if not isinstance(arguments, dict):
        raise Rejected(REASON, f"the arguments of {name} aren't a JSON object")
    return name, arguments


def _problem(name: str, parameters: dict[str, Any], arguments: dict[str, Any]) -> str:
    try:
        problem = _schema(msgspec.json.encode(parameters)).problem(arguments)
    except DataError as error:
        raise DataError(
            f"the parameters of the tool '{name}' aren't a JSON Schema: {error.what}",
            where="tools",
            fix="correct the column `tools` of the rows",
        ) from None
    return "" if problem is None else problem.text


@lru_cache(maxsize=1000)
def _schema(parameters: bytes) -> AnswerSchema:
    return AnswerSchema(msgspec.json.decode(parameters))
