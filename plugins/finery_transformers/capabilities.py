"""Finds out what a chat template writes, by rendering conversations instead of reading its code.

The conversations contain marks, which are then searched for in the rendered text.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from finery import DataError, outside_key
from finery.rows import Conversation, Message
from finery_transformers.chat import (
    CALLED,
    QUESTION,
    TOOLS,
    PromptTemplate,
    Tools,
    thinking_field,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ability = Literal["tools", "thinking"]
"""Tools, calls, their arguments and answers reach the text; or an assistant's thinking does."""
SHOWN = 3
"""Most templates to offer."""


class Unwritten(NamedTuple):
    """A part of a row that a chat template doesn't write as it should.

    turn: its number, from 1; None for the tools of the row. reason: in words.
    """

    turn: int | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.turn is None else f"turn {self.turn}: {self.reason}"


@outside_key
def unwritten(
    template: PromptTemplate, messages: Conversation, tools: Tools = None
) -> list[Unwritten]:
    """The tools, calls, arguments and answers of a row that its text doesn't depend on.

    The row is rendered once more with marks in their place. Raises `DataError` if the template
    refuses it.
    """
    bad = list(_not_objects(messages))
    if bad:
        return bad
    twin = _Twin(messages, tools)
    if not twin.marks:
        return []
    text = template.text(twin.messages, twin.tools)

    def render_without(index: int | None) -> str:
        offered = [tool for i, tool in enumerate(tools or []) if i != index]
        return template.text(messages, offered)

    # Some templates write no descriptions: it is enough that the text depends on the tool.
    missing = [
        Unwritten(mark.turn, f"{mark.what} isn't written")
        for mark in twin.marks
        if mark.text not in text
        and (mark.tool is None or render_without(mark.tool) == render_without(None))
    ]
    return [*missing, *_badly_encoded(text, twin.marks)]


@outside_key
def templates_with(tokenizer: "PreTrainedTokenizerBase", abilities: Sequence[Ability]) -> list[str]:
    """Names for `chat_template:` of trl's templates with the same turns as the tokenizer's own.

    They have all the abilities, and use no control token that the tokenizer lacks. Empty without
    trl.
    """
    own, vocabulary = _generation_prompt(tokenizer), tokenizer.get_vocab().keys()
    names = []
    original = tokenizer.chat_template
    try:
        for path in _carried():
            tokenizer.chat_template = path.read_text(encoding="utf-8")
            controls = re.findall(r"<\|[a-z_]+\|>|<[a-z]+_of_turn>", str(tokenizer.chat_template))
            has_same_turns = bool(own) and _generation_prompt(tokenizer) == own
            if has_same_turns and vocabulary >= {*controls} and _has(tokenizer, abilities):
                names.append(path.stem)
    finally:
        tokenizer.chat_template = original
    return names[:SHOWN]


def _has(tokenizer: "PreTrainedTokenizerBase", abilities: Sequence[Ability]) -> bool:
    if "thinking" in abilities and thinking_field(tokenizer) is None:
        return False
    try:
        return "tools" not in abilities or not unwritten(PromptTemplate(tokenizer), CALLED, TOOLS)
    except DataError:
        return False


def _carried() -> list[Path]:
    """The template files of trl, without those for trainings, which only add marks."""
    spec = find_spec("trl")
    folders = spec.submodule_search_locations if spec is not None else None
    files = [f for folder in folders or [] for f in Path(folder).glob("chat_templates/*.jinja")]
    return sorted(f for f in files if not f.stem.endswith("_training"))


def _generation_prompt(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The text that a prompt adds to its turns; empty if the template refuses a question."""
    template = PromptTemplate(tokenizer)
    try:
        bare, asked = template.text([QUESTION]), template.prompt([QUESTION])
    except DataError:
        return ""
    return asked.removeprefix(bare) if asked.startswith(bare) else ""


# -- rows ----------------------------------------------------------------------------------------


class _Mark(NamedTuple):
    """A mark in a twin, and its meaning.

    turn: from 1. tool: the index of the tool that it describes. key: of a text, the name of the
    argument of a call.
    """

    text: str
    turn: int | None
    what: str
    tool: int | None = None
    key: str = ""


class _Twin:
    """A row with marks in place of what its tools, calls and answers say."""

    def __init__(self, messages: Conversation, tools: Tools) -> None:
        self.marks: list[_Mark] = []
        self._numbers = count()
        self._names: dict[Any, str] = {}
        self.tools = [self._tool(index, tool) for index, tool in enumerate(tools or [])]
        self.messages = [self._message(number, m) for number, m in enumerate(messages, 1)]

    def _new(self, turn: int | None, what: str, **more: Any) -> str:
        # A word that no row has, and that no template changes.
        mark = _Mark(f"finery{next(self._numbers):04d}mark", turn, what, **more)
        self.marks.append(mark)
        return mark.text

    def _tool(self, index: int, tool: Mapping[str, Any]) -> dict[str, Any]:
        function = tool.get("function", tool)
        mark = self._new(None, f"the tool {function.get('name')}", tool=index)
        described = {**function, "description": mark}
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if properties and isinstance(properties, Mapping):
            described["parameters"] = {**parameters, **self._parameters(function, properties)}
        return {**tool, "function": described} if "function" in tool else described

    def _parameters(
        self, function: Mapping[str, Any], properties: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The properties of a tool, and which are required, with marks as names."""
        what = f"of the tool {function.get('name')}"
        names = {name: self._new(None, f"the parameter {name} {what}") for name in properties}
        given = function["parameters"].get("required")
        required = [names.get(name, name) for name in given] if isinstance(given, list) else given
        marked = {"properties": {names[name]: schema for name, schema in properties.items()}}
        return {**marked, "required": required} if given is not None else marked

    def _message(self, number: int, message: Message) -> Message:
        if message.get("role") == "tool":
            return self._answer(number, message)
        if not message.get("tool_calls"):
            return message
        twin = dict(message)
        if str(message.get("content") or "").strip():
            twin["content"] = self._new(number, "the text beside a call")
        twin["tool_calls"] = [self._call(number, call) for call in message["tool_calls"]]
        return twin

    def _call(self, number: int, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call.get("function", {})
        name = str(function.get("name"))
        mark = self._new(number, f"the call of {name}")
        self._names |= {call.get("id"): mark, name: mark}
        given = function.get("arguments", {})
        arguments = (json.loads(given or "{}") if isinstance(given, str) else given) or {}
        what = f"an argument of the call of {name}"
        marked = dict(self._argument(number, f"{what} ({k})", k, v) for k, v in arguments.items())
        return {**call, "function": {**function, "name": mark, "arguments": marked}}

    def _argument(self, number: int, what: str, key: str, value: Any) -> tuple[str, Any]:
        """An argument: the name is marked if a mark as the value would hide that it's dropped."""
        if not value or isinstance(value, bool):
            return self._new(number, what), value
        return key, self._value(number, what, value, key)

    def _value(self, number: int, what: str, value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            return self._new(number, what, key=key)
        if isinstance(value, Mapping):
            return {k: self._value(number, what, v) for k, v in value.items()}
        if isinstance(value, list):
            return [self._value(number, what, v) for v in value]
        if isinstance(value, int | float) and not isinstance(value, bool):
            index = next(self._numbers)
            self.marks.append(_Mark(str(NUMBER + index), number, what))
            return NUMBER + index
        return value

    def _answer(self, number: int, message: Message) -> Message:
        name = message.get("name")
        called = self._names.get(message.get("tool_call_id"), self._names.get(name))
        twin = {**message, "name": called} if name is not None and called else dict(message)
        if str(message.get("content") or "").strip():
            what = f"the answer of {name}" if name else "the tool's answer"
            twin["content"] = self._new(number, what)
        return twin


NUMBER = 730_000_000
"""Numbers from here on mark the numbers among arguments."""


def _not_objects(messages: Conversation) -> Iterator[Unwritten]:
    """The calls whose arguments aren't an object, nor the JSON text of one."""
    for number, message in enumerate(messages, 1):
        for call in message.get("tool_calls") or []:
            function = call.get("function", {})
            arguments = function.get("arguments", {})
            try:
                decoded = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
            except ValueError:
                decoded = None
                reason = "aren't JSON"
            else:
                twice = "are encoded as JSON twice"
                reason = twice if isinstance(decoded, str) else "aren't an object"
            if not isinstance(decoded, Mapping) and arguments is not None:
                what = f"the arguments of the call of {function.get('name')}"
                yield Unwritten(number, f"{what} {reason}")


def _badly_encoded(text: str, marks: Sequence[_Mark]) -> Iterator[Unwritten]:
    """The arguments that the text has in a form that isn't JSON, or is JSON within JSON.

    Templates may have another notation (`lookup(of='x')`), which is neither.
    """
    for mark in marks:
        if not mark.key:
            continue
        before = text[: text.find(mark.text)]
        if re.search(rf'\\"{re.escape(mark.key)}\\":\s*\\"$', before):
            yield Unwritten(mark.turn, f"{mark.what} is encoded as JSON twice")
        elif before.endswith(f"'{mark.key}': '"):
            yield Unwritten(mark.turn, f"{mark.what} is written as Python's text, not as JSON")
