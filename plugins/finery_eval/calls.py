"""Tools that rows offer, and the calls in rows and in answers, with what is wrong with them."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from finery import Completion, DataError
from finery.advanced import did_you_mean, shortened
from finery.rows import Conversation, Message, Row
from finery.rows.answers.answerschema import AnswerSchema, Problem
from finery.rows.answers.jsonvalues import NotJson, parse
from finery.rows.parts import canonical_json
from finery.rows.templates.limits import TimeExceeded, time_limit
from finery_eval.arguments import branches_of, coerced, facets_of, referenced, types_of

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
        written_arguments = (f"{name}={written(value)}" for name, value in self.arguments.items())
        return f"{self.name}({', '.join(written_arguments)})"


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
            key = canonical_json(each)
            if key not in self._tools:
                self._tools[key] = _read_tool(each)
            tool = self._tools[key]
            if tool.name in by_name:
                raise BadTools(f"two tools are named '{tool.name}'")
            by_name[tool.name] = tool
        return by_name


def _function(call: Any) -> tuple[str, dict[str, Any]]:
    """(name, the rest of it) of the function of a tool or a call; the name is empty without one."""
    function = call.get("function") if isinstance(call, dict) else None
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
        where = f"the `parameters` of {name}: `$ref` {shortened(reference, SHOWN)}"
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
        calls.append(Call("", None, Problem(UNREADABLE, shortened(text, SHOWN))))
    return calls


def _read(call: Any, tools: Tools, *, coerce: bool) -> Call:
    name, function = _function(call)
    if not name:
        return Call("", None, Problem("names no tool", "a call names no tool"))
    raw_arguments = function.get("arguments")  # JSON text or an object
    try:
        if isinstance(raw_arguments, str):
            arguments = parse(raw_arguments) if raw_arguments.strip() else {}
        else:
            arguments = {} if raw_arguments is None else raw_arguments
        if coerce and isinstance(arguments, dict) and name in tools:
            arguments = coerced(arguments, tools[name].schema)
    except NotJson as error:
        text = shortened(f"the arguments of {name} are {error}: {raw_arguments}", SHOWN)
        return Call(name, None, Problem(f"arguments: {error.kind}", text))
    if not isinstance(arguments, dict):
        kind = "the arguments aren't an object"
        text = shortened(f"{kind}: {name}({written(arguments)})", SHOWN)
        return Call(name, None, Problem(kind, text))
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
    except TimeExceeded as slow:
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
    return f"no call: {shortened(' '.join(text.split()), SHOWN)}" if text.strip() else "no call"


def shown_call(call: Any) -> str:
    """A call as a model made it, whether or not it is well-formed."""
    return str(_read(call, {}, coerce=False))


def names_of(calls: Iterable[Call]) -> Iterator[str]:
    """The names of the tools that are called; of a call without one, why."""
    for call in calls:
        yield call.name or f"({UNREADABLE})"


def written(value: Any) -> str:
    """A value as JSON, cut to what can be read at a glance."""
    return shortened(json.dumps(value, ensure_ascii=False), SHOWN)


# -- calls in rows that break the schema of their tool, or whose tool is missing ------------------


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
    argument_names = {name for form in forms for name in form.get("properties", {})}
    for name, value in (call.arguments or {}).items():
        if name not in argument_names:
            yield f"{tool.name} has no argument {name} ({written(value)})"


# -- arguments that settings name as `tool.argument` ----------------------------------------------


SAMPLED = 200
"""Rows that are looked at before they are built."""
PATHS = 4
"""Levels of objects in each other whose members can be named."""


class Arguments(NamedTuple):
    """The arguments of tools.

    lists: `tool.argument` → whether it may be a list. tools: names. where: the rows that were
    examined, if there are more of them, because those may offer other tools.
    """

    lists: Mapping[str, bool]
    tools: frozenset[str]
    where: str = ""

    def check(self, free: Sequence[str], unordered: Sequence[str]) -> None:
        """Raise `DataError` for a name in one of these settings that no argument has.

        Those in `unordered` must be of lists.
        """
        details = [f"found in {self.where}"] if self.where else []
        named = [("free", name) for name in free] + [("unordered", name) for name in unordered]
        for setting, name in named:
            # Other rows may offer other tools, but a tool has the same arguments there.
            is_known = not self.where or any(name.startswith(f"{tool}.") for tool in self.tools)
            if name not in self.lists and is_known:
                problem = f"no tool of the rows has the argument '{name}'"
                fix = did_you_mean(name, self.lists)
                raise DataError(problem, where=setting, fix=fix, details=details)
            if setting == "unordered" and not self.lists.get(name, True):
                problem = f"'{name}' isn't a list, so it has no order to ignore"
                fix = "remove it, or name an argument of the type `array`"
                raise DataError(problem, where=setting, fix=fix, details=details)


def arguments_of(tools: Iterable[Tool], where: str = "") -> Arguments:
    """The arguments of these tools."""
    lists: dict[str, bool] = {}
    names = set()
    for tool in tools:
        names.add(tool.name)
        for path, is_list in _arguments(tool.name, tool.schema, tool.schema, PATHS):
            lists[path] = lists.get(path, False) or is_list
    return Arguments(lists, frozenset(names), where)


def sampled_arguments(rows: Iterable[Row]) -> Arguments | None:
    """The arguments of the tools in the first rows; None if no tool can be read.

    The rows may still be the records of a file, in which tools may be JSON text.
    """
    toolbox, tools, remaining = Toolbox(), list[Tool](), iter(rows)
    is_whole = True
    for row in islice(remaining, SAMPLED):
        try:
            offered = row.get("tools")
            offered = parse(offered) if isinstance(offered, str) else offered
            tools += toolbox.of({"tools": offered}).values()
        except (BadTools, NotJson):
            is_whole = False
    is_whole = is_whole and next(remaining, None) is None
    where = "" if is_whole else f"the first {SAMPLED} rows"
    return arguments_of(tools, where) if tools else None


def _arguments(
    path: str, schema: Any, root: Mapping[str, Any], depth: int
) -> Iterator[tuple[str, bool]]:
    """(path, whether it may be a list) of all arguments, and of the members of objects."""
    for part in branches_of(schema, root) if depth else ():
        for name, member in part.get("properties", {}).items():
            types = types_of(facets_of(member, root, []))
            yield f"{path}.{name}", not types or "array" in types
            yield from _arguments(f"{path}.{name}", member, root, depth - 1)
        if "items" in part:
            yield from _arguments(path, part["items"], root, depth - 1)
