"""Readers of the notations in which families of models write tool calls."""

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from finery.rows.answers.jsonvalues import KeyTwice, NotJson, strict
from finery_transformers.parsing.calls import (
    BadCall,
    Call,
    CallReader,
    Calls,
    Tools,
    as_call,
    json_value,
    members,
    named,
    reason_of,
    skip_space,
    snippet,
    whole_json,
)

LONGEST_CALL = 100_000
"""Characters of a call in Python's notation that are parsed."""


def _between(
    opening: str, closing: str, content: Callable[[str, int, Tools], tuple[list[Call], int]]
) -> CallReader:
    """A reader of calls between two tags; without a closing tag, they end with their content.

    content: (text, position after the opening tag, tools) → the calls, and the position after them.
    """

    def read(text: str, tools: Tools) -> Calls:
        around, calls, at = list[str](), list[Call](), 0
        while (start := text.find(opening, at)) >= 0:
            around.append(text[at:start])
            more, end = content(text, start + len(opening), tools)
            end = skip_space(text, end)
            if not text.startswith(closing, end):
                raise BadCall(_unclosed(text, end, closing))
            calls += more
            at = end + len(closing)
        return Calls(_joined([*around, text[at:]]) if calls else text, calls)

    return read


def _unclosed(text: str, at: int, closing: str) -> str:
    after = text[at:]
    if not after:
        return f"the tool call ends before {closing}"
    return f"the tool call is followed by {snippet(after)} rather than {closing}"


def _joined(parts: Sequence[str]) -> str:
    """The text around calls: without the white space that separates it from them."""
    first, *others = parts
    return "\n".join(filter(None, [first.rstrip(), *(part.strip() for part in others)]))


def _json_call(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """A call as a JSON object."""
    value, end = json_value(text, at)
    return [as_call(value)], end


def _json_calls(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """Calls as a JSON array of objects."""
    value, end = json_value(text, at)
    if not isinstance(value, list):
        raise BadCall("the tool calls are no JSON array")
    return [as_call(item) for item in value], end


def _bare_json(text: str, _tools: Tools) -> Calls:
    """A text that is nothing but calls as JSON objects, as Llama 3.1 writes them."""
    body = text.strip().removeprefix("<|python_tag|>").strip()
    if not re.match(r'\{\s*"(name|type|parameters|arguments|function)"', body):
        return Calls(text, [])
    calls, at = list[Call](), 0
    while at < len(body):
        value, at = json_value(body, at)
        if not calls and not _may_be_call(value):
            return Calls(text, [])
        calls.append(as_call(value, "parameters"))
        at = skip_space(body, at)
        at = skip_space(body, at + body.startswith(";", at))
    return Calls("", calls)


def _may_be_call(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "name" in value
        and bool({"parameters", "arguments"} & set(value))
    )


def _functions(text: str, at: int, tools: Tools) -> tuple[list[Call], int]:
    """A call as `<function=name>` with `<parameter=key>` tags, as Qwen3.5 writes them."""
    head = re.compile(r"\s*<function=([^\n>]+)>").match(text, at)
    if head is None:
        raise BadCall(f"the tool call begins with {snippet(text[at:])} rather than <function=")
    end = text.find("</function>", head.end())
    if end < 0:
        raise BadCall("the tool call ends before </function>")
    pattern = r"\s*<parameter=(?P<key>[^\n>]+)>\n?(?P<value>.*?)\n?</parameter>\s*"
    typed = partial(_typed, name=head[1], tools=tools, constants=_PYTHON)
    arguments = _tagged_arguments(pattern, text[head.end() : end], typed)
    return [(named(head[1]), arguments)], end + len("</function>")


def _argument_keys(text: str, at: int, tools: Tools) -> tuple[list[Call], int]:
    """A call as a name with `<arg_key>` and `<arg_value>` tags, as GLM 4 writes them."""
    end = text.find("</tool_call>", at)
    end = len(text) if end < 0 else end
    name, _, rest = text[at:end].strip().partition("\n")
    pattern = r"\s*<arg_key>(?P<key>.*?)</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>\s*"
    typed = partial(_typed, name=name.strip(), tools=tools, constants=_NULL)
    return [(named(name), _tagged_arguments(pattern, rest, typed))], end


def _tagged_arguments(pattern: str, text: str, typed: Callable[[str, str], Any]) -> dict[str, Any]:
    """Arguments between tags. typed: (text, key) → the value."""
    arguments, at, argument = dict[str, Any](), 0, re.compile(pattern, re.DOTALL)
    while at < len(text):
        match = argument.match(text, at)
        if match is None:
            if not text[at:].strip():
                break
            raise BadCall(f"an argument of the tool call can't be read: {snippet(text[at:])}")
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
    can be. Raises `BadCall` for JSON with a key twice.
    """
    types = _types(name, key, tools)
    is_null = text in constants and constants[text] is None and "null" in types
    if "string" in types and not is_null:
        return text
    if text in constants:
        return constants[text]
    try:
        return strict(text)
    except KeyTwice as error:
        raise BadCall(reason_of(error)) from error
    except NotJson:
        return text


def _types(name: str, key: str, tools: Tools) -> list[str]:
    """The types that a tool's JSON Schema allows for an argument, as far as it names any."""
    functions = (tool.get("function", tool) for tool in tools)
    parameters = next((f.get("parameters") for f in functions if f.get("name") == name), None)
    schema = ((parameters or {}).get("properties") or {}).get(key) or {}
    if not isinstance(schema, dict):
        return []
    types = schema.get("type", [])
    values = schema.get("enum") or ()
    several = [s.get("type") for s in schema.get("anyOf", ()) if isinstance(s, dict)]
    named = [types] if isinstance(types, str) else [*types]
    texts = ["string"] if not named and any(isinstance(value, str) for value in values) else []
    return [*named, *texts, *(one for one in several if isinstance(one, str))]


def _python_calls(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """Calls as a Python list, `[f(a='b', n=3)]`, as LFM2 writes them."""
    end = text.find("<|tool_call_end|>", at)
    if end < 0:
        raise BadCall("the tool call ends before <|tool_call_end|>")
    if end - at > LONGEST_CALL:
        raise BadCall(f"the tool call has more than {LONGEST_CALL:,} characters")
    try:
        body = _python_list(text[at:end].strip())
        return [_python_call(element) for element in body.elts], end
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise BadCall(f"the tool call isn't written like Python: {reason}") from error


def _python_list(text: str) -> ast.List:
    """The list that a text is. Raises `SyntaxError` and others of `ast`, and `BadCall`."""
    try:
        body = ast.parse(text, mode="eval").body
    except SyntaxError:
        text = _with_escapes(text)
        body = ast.parse(text, mode="eval").body
    if not isinstance(body, ast.List) or not body.elts:
        raise BadCall("the tool calls are no list")
    if ast.get_source_segment(text, body) != text:
        raise BadCall("the tool calls are followed by something else")
    return body


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
    return named(ast.unparse(node.func)), members(pairs)


def _python_value(node: ast.expr) -> Any:
    """A literal of Python, or of JSON, which nested values are written in."""
    if isinstance(node, ast.List):
        return [_python_value(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            names = [str(key) for key in keys]
            return members(list(zip(names, map(_python_value, node.values), strict=True)))
    if isinstance(node, ast.Name) and node.id in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[node.id]
    value = ast.literal_eval(node)
    if isinstance(value, str | int | float | bool | None):
        return value
    raise BadCall("an argument of the tool call isn't a value of JSON")


def _gemma_call(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """A call as `call:name{key:value}` with quotes of its own, as Gemma 4 writes them."""
    head = re.compile(r"\s*call:([^\s{]+)\s*").match(text, at)
    if head is None:
        raise BadCall(f"the tool call begins with {snippet(text[at:])} rather than call:")
    end = text.find("<tool_call|>", head.end())
    if end < 0:
        raise BadCall("the tool call ends before <tool_call|>")
    parts = text[head.end() : end].split('<|"|>')
    # Every second part is a text between quotes.
    parts[::2] = [re.sub(r"([{,]\s*)([^\s{},:\[\]\"]+)\s*:", r'\1"\2":', p) for p in parts[::2]]
    parts[::2] = [re.sub(r'(?<![\w"])None(?![\w"])', "null", part) for part in parts[::2]]
    parts[1::2] = [json.dumps(part) for part in parts[1::2]]
    arguments = whole_json("".join(parts))
    return [as_call({"name": head[1], "arguments": arguments})], end


READERS: Sequence[CallReader] = (
    _between("<tool_call>", "</tool_call>", _json_call),
    _between("<tool_call>", "</tool_call>", _functions),
    _between("<tool_call>", "</tool_call>", _argument_keys),
    _between("<tool_call>", "</tool_call>", _json_calls),
    _between("<|tool_call_start|>", "<|tool_call_end|>", _python_calls),
    _between("<|tool_call>", "<tool_call|>", _gemma_call),
    _between("[TOOL_CALLS]", "", _json_calls),
    _between("<|tool_call|>", "<|/tool_call|>", _json_calls),
    _between("<|tool_call|>", "", _json_calls),
    _bare_json,
)
"""The notations that finery reads itself; the first that reads a template's own call is used."""
MARKS = ("<tool_call>", "<|tool_call_start|>", "<|tool_call>", "[TOOL_CALLS]", "<|tool_call|>")
