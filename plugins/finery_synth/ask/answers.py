"""Answers: whether they are usable, and their content without what a model puts around it."""

import contextlib
import re
from functools import lru_cache
from typing import Any

import msgspec

from finery import Completion, DataError, FineryError, RefusedError
from finery.rows.answers.answerschema import AnswerSchema
from finery.rows.answers.jsonvalues import NotJson, parse

REASON = "tool-call"
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
        raise Rejected(REASON, answer.call_error)
    check_calls(answer.tool_calls or [], tools)
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
    for part in (text, *inner):
        with contextlib.suppress(NotJson):
            return parse(part)
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


def check_calls(calls: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> None:
    """Raise `Rejected` for the first invalid call.

    A call must name one of the tools, with arguments that are a JSON object and fit its
    `parameters`. `DataError` if `parameters` isn't a JSON Schema.
    """
    functions = [tool.get("function", tool) for tool in tools or ()]
    known = {str(f.get("name")): f.get("parameters") or {} for f in functions}
    for call in calls:
        name, arguments = _name_and_arguments(call)
        if name not in known:
            offered = f"the tools are {', '.join(known)}" if known else "there are no tools"
            raise Rejected(REASON, f"the answer calls the tool {name!r:.80}, but {offered}")
        try:
            problem = _schema(msgspec.json.encode(known[name])).problem(arguments)
        except DataError as error:
            raise DataError(
                f"the parameters of the tool '{name}' aren't a JSON Schema: {error.what}",
                where="tools",
                fix="correct the column `tools` of the rows",
            ) from None
        if problem is not None:
            raise Rejected(REASON, f"the arguments of {name} don't fit: {problem.text}")


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


@lru_cache(maxsize=1000)
def _schema(parameters: bytes) -> AnswerSchema:
    return AnswerSchema(msgspec.json.decode(parameters))
