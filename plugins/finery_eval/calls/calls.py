"""Tools that rows offer, and the calls in their answers and in those of models."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from finery import Completion, DataError
from finery.rows import Message, Row
from finery.rows.answers.answerschema import AnswerSchema, Problem
from finery.rows.answers.jsonvalues import NotJson, parse
from finery.rows.parts import canonical
from finery.rows.templates.limits import Slow, time_limit
from finery_eval.calls.arguments import coerced, referenced

NO_ARGUMENTS = {"type": "object", "properties": {}}
"""The schema of a tool without `parameters`, by the OpenAI Chat Completions API."""
UNREADABLE = "can't be read as a call"
SHOWN = 200
"""Characters of an argument or of a reason that are shown."""


class BadTools(ValueError):
    """Tools that can't be offered, or a call in a row that can't be expected; says why.

    turn: where in the row, from 1; None: in the turn that is judged.
    """

    turn: int | None = None


class Tool(NamedTuple):
    """A tool, and the JSON Schema of its arguments."""

    name: str
    schema: dict[str, Any]
    checker: AnswerSchema


Tools = Mapping[str, Tool]
"""The tools of one row by name."""


class Call(NamedTuple):
    """A call.

    name: empty if it can't be read. arguments: None if they can't be read. problem: why the call is
    malformed; None if it isn't.
    """

    name: str
    arguments: dict[str, Any] | None
    problem: Problem | None = None

    def __str__(self) -> str:
        """The call as people write it: `weather(city="Oslo", days=3)`."""
        if self.problem is not None and not self.name:
            return f"({self.problem.text})"
        if self.arguments is None:
            return f"{self.name}(?)"
        given = (f"{name}={written(value)}" for name, value in self.arguments.items())
        return f"{self.name}({', '.join(given)})"


class Toolbox:
    """Reads the tools of rows. Rows mostly share theirs, so each is checked once."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}

    def of(self, row: Row) -> Tools:
        """The tools that a row offers. Raises `BadTools`."""
        offered = row.get("tools")
        if not isinstance(offered, list) or not offered:
            raise BadTools("it offers no `tools`")
        by_name: dict[str, Tool] = {}
        for each in offered:
            key = canonical(each)
            if key not in self._tools:
                self._tools[key] = _read_tool(each)
            tool = self._tools[key]
            if tool.name in by_name:
                raise BadTools(f"two tools are named '{tool.name}'")
            by_name[tool.name] = tool
        return by_name


def _function(of: Any) -> tuple[str, dict[str, Any]]:
    """(name, the rest of it) of the function of a tool or a call; the name is empty without one."""
    function = of.get("function") if isinstance(of, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return (name, function) if isinstance(name, str) and isinstance(function, dict) else ("", {})


def _read_tool(offered: Any) -> Tool:
    name, function = _function(offered)
    if not name:
        raise BadTools("a tool has no function with a name")
    schema = function.get("parameters") or NO_ARGUMENTS
    if not isinstance(schema, dict):
        raise BadTools(f"the `parameters` of {name} aren't a JSON Schema")
    try:
        checker = AnswerSchema(schema)
    except DataError as error:
        raise BadTools(f"the `parameters` of {name}: {error.what}") from None
    _check_references(name, schema)
    return Tool(name, schema, checker)


def _check_references(name: str, schema: dict[str, Any]) -> None:
    """Raise `BadTools` if a `$ref` refers to something that isn't a schema."""
    draft = {"$schema": schema["$schema"]} if "$schema" in schema else {}
    for reference, part in referenced(schema):
        where = f"the `parameters` of {name}: `$ref` {_cut(reference)}"
        if not isinstance(part, dict | bool):
            raise BadTools(f"{where}: not a JSON Schema: {written(part)}")
        try:
            AnswerSchema({**draft, **part} if isinstance(part, dict) else {})
        except DataError as error:
            raise BadTools(f"{where}: {error.what}") from None


def expected_calls(message: Message, tools: Tools, *, coerce: bool) -> list[Call]:
    """The calls of an assistant turn of a row. Raises `BadTools` for a malformed one."""
    calls = [_read(call, tools, coerce=coerce) for call in message.get("tool_calls") or []]
    for call in calls:
        if call.problem is not None:
            raise BadTools(call.problem.text)
    return calls


def answered_calls(answer: Completion, tools: Tools, *, coerce: bool) -> list[Call]:
    """The calls in a model's answer. Malformed ones come with their problem."""
    calls = [_read(call, tools, coerce=coerce) for call in answer.tool_calls or []]
    if answer.call_error:
        text = f"{UNREADABLE}: {answer.call_error}: {answer.text.strip()}"
        calls.append(Call("", None, Problem(UNREADABLE, _cut(text))))
    return calls


def _read(call: Any, tools: Tools, *, coerce: bool) -> Call:
    name, function = _function(call)
    if not name:
        return Call("", None, Problem("names no tool", "a call names no tool"))
    given = function.get("arguments")  # JSON text or an object
    try:
        if isinstance(given, str):
            arguments = parse(given) if given.strip() else {}
        else:
            arguments = {} if given is None else given
        if coerce and isinstance(arguments, dict) and name in tools:
            arguments = coerced(arguments, tools[name].schema)
    except NotJson as error:
        text = _cut(f"the arguments of {name} are {error}: {given}")
        return Call(name, None, Problem(f"arguments: {error.kind}", text))
    if not isinstance(arguments, dict):
        kind = "the arguments aren't an object"
        return Call(name, None, Problem(kind, _cut(f"{kind}: {name}({written(arguments)})")))
    if name not in tools:
        text = f"calls {name}, which isn't offered"
        return Call(name, arguments, Problem("calls a tool that isn't offered", text))
    return Call(name, arguments, _broken(tools[name], arguments))


def _broken(tool: Tool, arguments: dict[str, Any]) -> Problem | None:
    """How the arguments violate the tool's schema, or why that can't be checked."""
    unchecked = f"{tool.name}: can't be checked by its schema"
    try:
        with time_limit():
            problem = tool.checker.problem(arguments)
    except Slow as slow:
        return Problem(f"{unchecked} in time", f"{unchecked}: that {slow}")
    except DataError as error:
        return Problem(unchecked, f"{unchecked}: {error.what}")
    if problem is None:
        return None
    text = problem.text.replace("the object: ", "")
    kind = problem.kind.replace("the object: ", "")
    return Problem(f"{tool.name}: breaks its schema ({kind})", f"{tool.name}: {text}")


def readable(calls: Iterable[Call], text: str = "") -> str:
    """Calls in words for people, one a line; of a turn without calls its text."""
    lines = [str(call) for call in calls]
    if lines:
        return "\n".join(lines)
    return f"no call: {_cut(' '.join(text.split()))}" if text.strip() else "no call"


def shown_call(call: Any) -> str:
    """A call as a model made it, whether or not it is well-formed."""
    return str(_read(call, {}, coerce=False))


def names_of(calls: Iterable[Call]) -> Iterator[str]:
    """The names of the tools that are called; of a call without one, why."""
    for call in calls:
        yield call.name or f"({UNREADABLE})"


def written(value: Any) -> str:
    """A value as JSON, cut to what can be read at a glance."""
    return _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"
