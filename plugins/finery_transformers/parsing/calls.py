"""A call in the text of an answer: its name, its arguments, and the JSON that they are in."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from finery.rows.answers.jsonvalues import KeyTwice, NotJson, strict_at, unique

Tools = Sequence[dict[str, Any]]
Call = tuple[str, Any]
"""A function's name and its arguments."""
_ARGUMENTS = {"arguments", "parameters"}
_NAME = re.compile(r"[\w.:/-]+")


class BadCall(Exception):
    """What begins like a tool call, but isn't one; its text is the reason."""


class Calls(NamedTuple):
    """The calls in a text, and the text around them."""

    text: str
    calls: list[Call]


CallReader = Callable[[str, Tools], Calls]
"""(text, tools) → the calls in it. Raises `BadCall`."""


def json_value(text: str, at: int) -> tuple[Any, int]:
    """(The JSON value at a position, the position after it.) Raises `BadCall`."""
    try:
        return strict_at(text, skip_space(text, at))
    except NotJson as error:
        raise BadCall(reason_of(error)) from error


def whole_json(text: str) -> Any:
    """The JSON value that a text is. Raises `BadCall`."""
    value, end = json_value(text, 0)
    if text[end:].strip():
        raise BadCall(f"the arguments of the tool call are followed by {snippet(text[end:])}")
    return value


def members(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these members. Raises `BadCall` for a key that occurs twice."""
    try:
        return unique(pairs)
    except NotJson as error:
        raise BadCall(reason_of(error)) from error


def reason_of(error: NotJson) -> str:
    """Why a tool call can't be read, in words."""
    if isinstance(error, KeyTwice):
        return f"the tool call has {error.detail!r} twice"
    return f"the tool call is {error}"


def skip_space(text: str, at: int) -> int:
    """The position of what follows the white space at a position."""
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def as_call(value: Any, other: str = "arguments") -> Call:
    """The call in a JSON object. other: what its arguments may be called too."""
    if not isinstance(value, dict):
        raise BadCall("the tool call is no JSON object")
    value = value["function"] if isinstance(value.get("function"), dict) else value
    if value.keys() >= _ARGUMENTS:
        raise BadCall("the tool call has both `arguments` and `parameters`")
    key = next((key for key in ("arguments", other) if key in value), "arguments")
    arguments = value.get(key, {})
    if isinstance(arguments, str):
        arguments = whole_json(arguments or "{}")
    arguments = {} if arguments is None else arguments
    if key not in value and (unknown := sorted(set(value) - {"name", "id", "type"})):
        raise BadCall(f"the tool call has no `arguments`, but {', '.join(map(repr, unknown))}")
    if not isinstance(arguments, dict):
        raise BadCall("the arguments of the tool call are no JSON object")
    return named(value.get("name")), arguments


def named(name: Any) -> str:
    """The name of a function. Raises `BadCall` if it can't be one."""
    if not isinstance(name, str) or not name.strip():
        raise BadCall("the tool call has no name")
    if not _NAME.fullmatch(name.strip()):
        raise BadCall(f"the tool call has no name, but {snippet(name)}")
    return name.strip()


def snippet(text: str) -> str:
    """The beginning of a text, in quotes."""
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def in_openai_shape(calls: Sequence[Call]) -> list[dict[str, Any]] | None:
    """Calls in the shape of the OpenAI Chat Completions API; None instead of none."""
    return [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
        }
        for number, (name, arguments) in enumerate(calls)
    ] or None


def without(text: str | None, special: Sequence[str]) -> str | None:
    """The text without the texts of special tokens."""
    for token in special:
        text = text.replace(token, "") if text else text
    return text
