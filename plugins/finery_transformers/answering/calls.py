"""Tool calls in the text of an answer, read strictly in the notations of model families.

transformers can read calls, too (`parse_response`, with response templates that the trl package has
for some families). It isn't used here: it accepts a truncated call, keeps the last of two arguments
with the same name, accepts NaN, ends a call at a closing tag within its JSON, and has no response
template for Mistral, Phi-4-mini and Granite. A model that writes such calls would be scored as
right, or would learn rows that no server can parse.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from finery.rows.answers.jsonvalues import (
    DuplicateKey,
    NotJson,
    object_with_unique_keys,
    parse_strict,
    parse_strict_at,
)

Tools = Sequence[dict[str, Any]]
Call = tuple[str, Any]
"""A function's name and its arguments."""
LONGEST_CALL = 100_000
"""Characters of a call in Python's notation that are parsed."""


class BadCall(Exception):
    """Text that begins like a tool call but isn't one. The message is the reason."""


class Calls(NamedTuple):
    """The calls in a text, and the text around them."""

    text: str
    calls: list[Call]


CallReader = Callable[[str, Tools], Calls]
"""(text, tools) → the calls in it. Raises `BadCall`."""
_Content = Callable[[str, int, Tools], tuple[list[Call], int]]
"""(text, position after the opening tag, tools) → the calls, and the position after them.

Raises `BadCall` and `NotJson`.
"""


@contextmanager
def _reasons() -> Iterator[None]:
    """Raise `BadCall` for JSON that can't be read."""
    try:
        yield
    except DuplicateKey as error:
        raise BadCall(f"the tool call has {error.detail!r} twice") from error
    except NotJson as error:
        raise BadCall(f"the tool call is {error}") from error


def _snippet(text: str) -> str:
    """The beginning of a text, in quotes."""
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def _skip_space(text: str, at: int) -> int:
    """The position of what follows the white space at a position."""
    return len(text) - len(text[at:].lstrip())


def _named(name: Any) -> str:
    """The name of a function."""
    if not isinstance(name, str) or not name.strip():
        raise BadCall("the tool call has no name")
    if not re.fullmatch(r"[\w.:/-]+", name.strip()):
        raise BadCall(f"the tool call has no name, but {_snippet(name)}")
    return name.strip()


def _as_call(value: Any, other: str = "arguments") -> Call:
    """The call in a JSON object. other: another key that the arguments may have."""
    if not isinstance(value, dict):
        raise BadCall("the tool call isn't a JSON object")
    value = value["function"] if isinstance(value.get("function"), dict) else value
    if value.keys() >= {"arguments", "parameters"}:
        raise BadCall("the tool call has both `arguments` and `parameters`")
    key = next((key for key in ("arguments", other) if key in value), "arguments")
    if key not in value and (unknown := sorted(set(value) - {"name", "id", "type"})):
        raise BadCall(f"the tool call has no `arguments`, but {', '.join(map(repr, unknown))}")
    arguments = value.get(key)
    if isinstance(arguments, str):
        arguments = _whole_json(arguments or "{}")
    arguments = {} if arguments is None else arguments
    if not isinstance(arguments, dict):
        raise BadCall("the arguments of the tool call aren't a JSON object")
    return _named(value.get("name")), arguments


def _whole_json(text: str) -> Any:
    """The arguments that a text is."""
    value, end = parse_strict_at(text, 0)
    if text[end:].strip():
        raise BadCall(f"the arguments of the tool call are followed by {_snippet(text[end:])}")
    return value


# -- JSON ------------------------------------------------------------------------------------------


def _json_call(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """A call as a JSON object."""
    value, end = parse_strict_at(text, at)
    return [_as_call(value)], end


def _json_calls(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """Calls as a JSON array of objects."""
    value, end = parse_strict_at(text, at)
    if not isinstance(value, list):
        raise BadCall("the tool calls aren't a JSON array")
    return [_as_call(item) for item in value], end


@_reasons()
def _bare_json(text: str, _tools: Tools) -> Calls:
    """A text that is nothing but calls as JSON objects, as Llama 3.1 writes them."""
    body = text.strip().removeprefix("<|python_tag|>").strip()
    if not re.match(r'\{\s*"(name|type|parameters|arguments|function)"', body):
        return Calls(text, [])
    calls, at = list[Call](), 0
    while at < len(body):
        value, at = parse_strict_at(body, at)
        is_call = isinstance(value, dict) and "name" in value
        if not calls and not (is_call and {"parameters", "arguments"} & set(value)):
            return Calls(text, [])
        calls.append(_as_call(value, "parameters"))
        at = _skip_space(body, at)
        at = _skip_space(body, at + body.startswith(";", at))
    return Calls("", calls)


# -- arguments between tags ------------------------------------------------------------------------


def _functions(text: str, at: int, tools: Tools) -> tuple[list[Call], int]:
    """A call as `<function=name>` with `<parameter=key>` tags, as Qwen3.5 writes them."""
    head = re.compile(r"\s*<function=([^\n>]+)>").match(text, at)
    if head is None:
        raise BadCall(f"the tool call begins with {_snippet(text[at:])} rather than <function=")
    end = text.find("</function>", head.end())
    if end < 0:
        raise BadCall("the tool call ends before </function>")
    pattern = r"\s*<parameter=(?P<key>[^\n>]+)>\n?(?P<value>.*?)\n?</parameter>\s*"
    typed = partial(_typed, name=head[1], tools=tools, constants=_PYTHON)
    arguments = _tagged_arguments(pattern, text[head.end() : end], typed)
    return [(_named(head[1]), arguments)], end + len("</function>")


def _argument_keys(text: str, at: int, tools: Tools) -> tuple[list[Call], int]:
    """A call as a name with `<arg_key>` and `<arg_value>` tags, as GLM 4 writes them."""
    end = text.find("</tool_call>", at)
    end = len(text) if end < 0 else end
    name, _, rest = text[at:end].strip().partition("\n")
    pattern = r"\s*<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>\s*"
    typed = partial(_typed, name=name.strip(), tools=tools, constants=_NULL)
    return [(_named(name), _tagged_arguments(pattern, rest, typed))], end


def _tagged_arguments(pattern: str, text: str, typed: Callable[[str, str], Any]) -> dict[str, Any]:
    """Arguments between tags. typed: (text, key) → the value."""
    arguments, at, argument = dict[str, Any](), 0, re.compile(pattern, re.DOTALL)
    while text[at:].strip():
        match = argument.match(text, at)
        if match is None:
            raise BadCall(f"an argument of the tool call can't be read: {_snippet(text[at:])}")
        key = match["key"].strip()
        if key in arguments:
            raise BadCall(f"the tool call has the argument '{key}' twice")
        arguments[key] = typed(match["value"], key)
        at = match.end()
    return arguments


_NULL: Mapping[str, Any] = {"null": None}
_PYTHON: Mapping[str, Any] = {**_NULL, "None": None, "True": True, "False": False}
"""Constants as templates write them that turn values into text with Python."""


def _typed(text: str, key: str, *, name: str, tools: Tools, constants: Mapping[str, Any]) -> Any:
    """An argument that is written without its type, by the tool's JSON Schema.

    A text remains one if the schema allows texts; else it is one of the constants or JSON, if it
    can be.
    """
    types = _types(name, key, tools)
    is_null = text in constants and constants[text] is None and "null" in types
    if "string" in types and not is_null:
        return text
    if text in constants:
        return constants[text]
    try:
        return parse_strict(text)
    except DuplicateKey:
        raise
    except NotJson:
        return text


def _types(name: str, key: str, tools: Tools) -> list[str]:
    """The types that a tool's JSON Schema allows for an argument, if it names any."""
    functions = (tool.get("function", tool) for tool in tools)
    parameters = next((f.get("parameters") for f in functions if f.get("name") == name), None)
    schema = ((parameters or {}).get("properties") or {}).get(key) or {}
    if not isinstance(schema, dict):
        return []
    declared = schema.get("type", [])
    types = [declared] if isinstance(declared, str) else [*declared]
    if not types and any(isinstance(value, str) for value in schema.get("enum") or ()):
        types = ["string"]
    choices = [c.get("type") for c in schema.get("anyOf", ()) if isinstance(c, dict)]
    return [*types, *(choice for choice in choices if isinstance(choice, str))]


# -- Python ----------------------------------------------------------------------------------------


def _python_calls(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """Calls as a Python list, `[f(a='b', n=3)]`, as LFM2 writes them."""
    end = text.find("<|tool_call_end|>", at)
    if end < 0:
        raise BadCall("the tool call ends before <|tool_call_end|>")
    if end - at > LONGEST_CALL:
        raise BadCall(f"the tool call has more than {LONGEST_CALL:,} characters")
    written = text[at:end].strip()
    try:
        try:
            body = ast.parse(written, mode="eval").body
        except SyntaxError:
            written = _with_escapes(written)
            body = ast.parse(written, mode="eval").body
        if not isinstance(body, ast.List) or not body.elts:
            raise BadCall("the tool calls aren't a list")
        if ast.get_source_segment(written, body) != written:
            raise BadCall("the tool calls are followed by something else")
        return [_python_call(element) for element in body.elts], end
    except NotJson:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise BadCall(f"the tool call isn't written like Python: {reason}") from error


_TEXT_OPENS = re.compile(r"=\s*'")
_TEXT_CLOSES = re.compile(r"'(?=\s*(?:,\s*[^\W\d]\w*\s*=|\)\s*(?:,\s*[\w.]+\(|\]\s*$)))")
"""A quote after which another argument, another call or the end follows."""


def _with_escapes(text: str) -> str:
    """Calls with escaped texts. LFM2.5's template puts texts between quotes as they are.

    Raises `BadCall` if a text has a backslash, which may be one or begin an escape.
    """
    parts, at = list[str](), 0
    while opening := _TEXT_OPENS.search(text, at):
        closing = _TEXT_CLOSES.search(text, opening.end())
        if closing is None:
            break
        content = text[opening.end() : closing.start()]
        if "\\" in content:
            raise BadCall("a text of the tool call has quotes or line breaks besides a backslash")
        parts.append(f"{text[at : opening.start()]}={content!r}")
        at = closing.end()
    return "".join([*parts, text[at:]])


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or any(k.arg is None for k in node.keywords):
        raise BadCall("the tool call isn't of the form name(argument=value)")
    pairs = [(str(keyword.arg), _python_value(keyword.value)) for keyword in node.keywords]
    return _named(ast.unparse(node.func)), object_with_unique_keys(pairs)


def _python_value(node: ast.expr) -> Any:
    """A literal of Python, or of JSON, which nested values are written in."""
    if isinstance(node, ast.List):
        return [_python_value(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            names = [str(key) for key in keys]
            return object_with_unique_keys(
                list(zip(names, map(_python_value, node.values), strict=True))
            )
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    value = ast.literal_eval(node)
    if isinstance(value, str | int | float | bool | None):
        return value
    raise BadCall("an argument of the tool call isn't a value of JSON")


def _gemma_call(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """A call as `call:name{key:value}` with special quotes, as Gemma 4 writes them."""
    head = re.compile(r"\s*call:([^\s{]+)\s*").match(text, at)
    if head is None:
        raise BadCall(f"the tool call begins with {_snippet(text[at:])} rather than call:")
    end = text.find("<tool_call|>", head.end())
    if end < 0:
        raise BadCall("the tool call ends before <tool_call|>")
    parts = text[head.end() : end].split('<|"|>')
    # Every second part is a text between quotes.
    parts[::2] = [re.sub(r"([{,]\s*)([^\s{},:\[\]\"]+)\s*:", r'\1"\2":', p) for p in parts[::2]]
    parts[::2] = [re.sub(r'(?<![\w"])None(?![\w"])', "null", part) for part in parts[::2]]
    parts[1::2] = [json.dumps(part) for part in parts[1::2]]
    return [_as_call({"name": head[1], "arguments": _whole_json("".join(parts))})], end


# -- messages within an answer ---------------------------------------------------------------------

CHANNELS = "<|channel|>analysis"
"""Written by templates whose answers are a sequence of messages in channels, as gpt-oss's are."""
_TURN = "<|start|>assistant"


class Part(NamedTuple):
    """A message within an answer. recipient: whom it calls; empty for text and thinking."""

    channel: str
    recipient: str
    content: str


def whole_turn(raw: str, prompt: str) -> str:
    """An answer in channels, with what its prompt already wrote of it."""
    _, turn, start = prompt.rpartition(_TURN)
    return start + raw if turn and "<|start|>" not in start else raw


def channel_parts(text: str) -> list[Part]:
    """The messages of an answer in channels.

    A call's recipient is before or after the channel (OpenAI's Harmony format has both).
    """
    parts = []
    for part in re.split(r"<\|(?:end|call|return)\|>|(?=<\|start\|>)", text):
        head, message, content = part.partition("<|message|>")
        channel = re.search(r"<\|channel\|>\s*(\w+)", head)
        recipient = re.search(r"(?:^|\s)to=([^\s<]+)", head.removeprefix(_TURN))
        if part.strip():
            name = channel[1] if channel else ""
            if not message:  # a text without a header, or a header that was cut: no call's JSON
                name, content = "final", part
            parts.append(Part(name, recipient[1] if recipient else "", content))
    return parts


@_reasons()
def channel_calls(text: str, _tools: Tools) -> Calls:
    """The calls of an answer in channels. Raises `BadCall`."""
    parts = channel_parts(text)
    calls = [
        _as_call({"name": part.recipient.removeprefix("functions."), "arguments": part.content})
        for part in parts
        if part.recipient
    ]
    others = (p.content.strip() for p in parts if not p.recipient and p.channel != "analysis")
    return Calls("\n".join(filter(None, others)), calls)


# -- all notations ---------------------------------------------------------------------------------


@_reasons()
def _between(opening: str, closing: str, content: _Content, text: str, tools: Tools) -> Calls:
    """Calls between two tags; without a closing tag, they end with their content."""
    around, calls, at = list[str](), list[Call](), 0
    while (start := text.find(opening, at)) >= 0:
        around.append(text[at:start])
        more, end = content(text, start + len(opening), tools)
        end = _skip_space(text, end)
        if end == len(text) and closing:
            raise BadCall(f"the tool call ends before {closing}")
        if not text.startswith(closing, end):
            after = _snippet(text[end:])
            raise BadCall(f"the tool call is followed by {after} rather than {closing}")
        calls += more
        at = end + len(closing)
    if not calls:
        return Calls(text, [])
    # The white space that separates text from calls isn't part of it.
    first, *others = [*around, text[at:]]
    joined = "\n".join(filter(None, [first.rstrip(), *(part.strip() for part in others)]))
    return Calls(joined, calls)


_NOTATIONS: Sequence[tuple[str, str, _Content]] = (
    ("<tool_call>", "</tool_call>", _json_call),
    ("<tool_call>", "</tool_call>", _functions),
    ("<tool_call>", "</tool_call>", _argument_keys),
    ("<tool_call>", "</tool_call>", _json_calls),
    ("<|tool_call_start|>", "<|tool_call_end|>", _python_calls),
    ("<|tool_call>", "<tool_call|>", _gemma_call),
    ("[TOOL_CALLS]", "", _json_calls),
    ("<|tool_call|>", "<|/tool_call|>", _json_calls),
    ("<|tool_call|>", "", _json_calls),
)
MARKS = frozenset(opening for opening, _, _ in _NOTATIONS)
READERS: Sequence[CallReader] = (*(partial(_between, *n) for n in _NOTATIONS), _bare_json)
"""The first that reads a template's own call is used."""
