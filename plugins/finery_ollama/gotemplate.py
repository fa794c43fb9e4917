"""The part of Go's text/template that `finery_ollama.template` writes, to check it without Go.

https://pkg.go.dev/text/template
"""

import re
from collections.abc import Callable
from typing import Any

from finery.rows import Conversation, Message

_ACTION = re.compile(r'\{\{((?:"(?:\\.|[^"\\])*"|[^"}])*)\}\}')
_TOKEN = re.compile(r'\s*("(?:\\.|[^"\\])*"|:=|=|,|\(|\)|[$.\w]+)')

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "not": lambda a: not a,
    "and": lambda a, b: b if a else a,
    "len": len,
    "slice": lambda items, start: items[start:],
}

Node = tuple[Any, ...]
"""("text", text), ("do", expression), ("if", [(condition, nodes)…]) or ("range", head, nodes)."""


def collate(messages: Conversation) -> tuple[str, Conversation]:
    """(.System, .Messages) as Ollama makes them of a conversation."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            joined = f"{merged[-1]['content']}\n\n{message['content']}"
            merged[-1] = {**message, "content": joined}
        else:
            merged.append(message)
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    return system, merged


def render_go(template: str, system: str, messages: Conversation) -> str:
    """The prompt that Ollama writes. `ValueError` for what isn't in this part of the language."""
    parts = _ACTION.split(template)  # text, action, text, …
    nodes, rest = _parse([p for p in enumerate(parts) if p[0] % 2 or p[1]])
    if rest:
        raise ValueError(f"unexpected {{{{{rest[0][1]}}}}}")
    data = {"System": system, "Messages": [_go_message(m) for m in messages]}
    return _execute(nodes, data, {"$": data})


def _go_message(message: Message) -> dict[str, Any]:
    return {"Role": message["role"], "Content": message["content"]}


def _parse(parts: list[tuple[int, str]]) -> tuple[list[Node], list[tuple[int, str]]]:
    """(nodes up to an `else` or `end` that belongs outside, what is left from there)."""
    nodes: list[Node] = []
    while parts:
        (index, text), rest = parts[0], parts[1:]
        word = text.split(maxsplit=1)[0] if index % 2 else ""
        if word in ("else", "end"):
            break
        if index % 2 == 0:
            nodes.append(("text", text))
        elif word == "if":
            node, rest = _parse_if(text.split(maxsplit=1)[1], rest)
            nodes.append(node)
        elif word == "range":
            inner, rest = _parse(rest)
            nodes.append(("range", text.split(maxsplit=1)[1], inner))
            rest = rest[1:]
        else:
            nodes.append(("do", text))
        parts = rest
    return nodes, parts


def _parse_if(condition: str, parts: list[tuple[int, str]]) -> tuple[Node, list[tuple[int, str]]]:
    branches = []
    while True:
        inner, parts = _parse(parts)
        branches.append((condition, inner))
        word = parts[0][1].strip()
        parts = parts[1:]
        if word == "end":
            return ("if", branches), parts
        condition = word.removeprefix("else").strip().removeprefix("if").strip() or '"always"'


def _execute(nodes: list[Node], dot: Any, names: dict[str, Any]) -> str:
    return "".join(_execute_one(node, dot, names) for node in nodes)


def _execute_one(node: Node, dot: Any, names: dict[str, Any]) -> str:
    if node[0] == "text":
        return str(node[1])
    if node[0] == "range":
        return _range(node[1], node[2], dot, names)
    if node[0] == "if":
        chosen = (inner for condition, inner in node[1] if _value(condition, dot, names))
        return _execute(next(chosen, []), dot, names)
    tokens = _TOKEN.findall(node[1])
    if len(tokens) > 2 and tokens[1] in (":=", "="):
        names[tokens[0]] = _value(node[1].partition("=")[2], dot, names)
        return ""
    return str(_value(node[1], dot, names))


def _range(head: str, nodes: list[Node], dot: Any, names: dict[str, Any]) -> str:
    variables, declared, items = head.rpartition(":=")
    written = []
    for index, item in enumerate(_value(items, dot, names)):
        if declared:
            first, second = (v.strip() for v in variables.split(","))
            names[first], names[second] = index, item
        written.append(_execute(nodes, item, names))
    return "".join(written)


def _value(expression: str, dot: Any, names: dict[str, Any]) -> Any:
    tokens = _TOKEN.findall(expression)
    value, rest = _call(tokens, dot, names)
    if rest:
        raise ValueError(f"unexpected {rest[0]} in {expression!r}")
    return value


def _call(tokens: list[str], dot: Any, names: dict[str, Any]) -> tuple[Any, list[str]]:
    """A function with its arguments, or a single operand."""
    if tokens[0] not in _FUNCTIONS:
        return _operand(tokens, dot, names)
    arguments, rest = [], tokens[1:]
    while rest and rest[0] != ")":
        argument, rest = _operand(rest, dot, names)
        arguments.append(argument)
    return _FUNCTIONS[tokens[0]](*arguments), rest


def _operand(tokens: list[str], dot: Any, names: dict[str, Any]) -> tuple[Any, list[str]]:
    token, rest = tokens[0], tokens[1:]
    if token == "(":
        value, rest = _call(rest, dot, names)
        return value, rest[1:]
    if token.startswith('"'):
        return _unquote(token), rest
    if token.isdigit():
        return int(token), rest
    name, _, field = token.partition(".")
    value = names[name] if name else dot
    return (value[field] if field else value), rest


def _unquote(literal: str) -> str:
    return re.sub(
        r'\\(?:U([0-9a-f]{8})|(["\\]))',
        lambda found: chr(int(found[1], 16)) if found[1] else found[2],
        literal[1:-1],
    )
