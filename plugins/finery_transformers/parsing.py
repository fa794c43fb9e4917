"""Raw answers of local models into text, thinking and tool calls, by what the template writes.

A chat template writes tool calls in its family's own notation. Which one is found by rendering a
call and reading it back: a reader is right if it returns that very call. The trl package carries
descriptions of further templates, which transformers can read by; they are used if it is installed.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from finery import DataError, FineryError
from finery.rows import Conversation
from finery.rows.chat.thinking import TAGS, opened_in, split_thinking

Tools = Sequence[dict[str, Any]]
Call = tuple[str, Any]
"""A function's name and its arguments."""
Render = Callable[[Conversation, Tools | None, bool], str]
"""(messages, tools, whether to add the generation prompt) → the chat template's text."""

CHANNELS = "<|channel|>analysis"
"""Written by templates whose answers are a sequence of channels rather than text."""
LONGEST_CALL = 100_000
"""Characters of a call in Python's notation that are parsed."""
_SOUGHT = "finery asks"
_SAID = "finery answers"
_ARGUMENTS = {"arguments", "parameters"}
_NAME = re.compile(r"[\w.:/-]+")
_PROBED: Call = ("find_place", {"city": "Paris", "days": 3, "options": {"near": [1, True]}})
_PROBE_TOOLS: Tools = [
    {
        "type": "function",
        "function": {
            "name": _PROBED[0],
            "description": "Find a place.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "A city."},
                    "days": {"type": "integer", "description": "Days."},
                    "options": {
                        "type": "object",
                        "description": "More.",
                        "properties": {
                            "near": {
                                "type": "array",
                                "description": "Near.",
                                "items": {"type": ["integer", "boolean"], "description": "One."},
                            }
                        },
                    },
                },
                "required": ["city"],
            },
        },
    }
]


class BadCall(Exception):
    """What begins like a tool call, but isn't one; its text is the reason."""


class Calls(NamedTuple):
    """The calls in a text, and the text around them."""

    text: str
    calls: list[Call]


CallReader = Callable[[str, Tools], Calls]
"""(text, tools) → the calls in it. Raises `BadCall`."""


class Parsed(NamedTuple):
    """An answer's parts, as in `Completion`."""

    text: str
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    call_error: str | None = None

    def finish_reason(self, is_finished: bool) -> str:
        """Why the answer ended. is_finished: whether it ended before its limit of tokens."""
        if not is_finished:
            return "length"
        return "tool_calls" if self.tool_calls else "stop"


class AnswerReader:
    """Reads the raw answers of a model.

    source: its chat template. render: runs it.
    """

    def __init__(self, source: str, render: Render) -> None:
        self._source = source
        self._render = render

    @cached_property
    def needs_special_tokens(self) -> bool:
        """Whether raw answers must contain the text of special tokens.

        So it is where a template writes tags: some families have special tokens for them.
        """
        marks = (*TAGS, *_MARKS, CHANNELS)
        return any(mark.strip() in self._source for mark in marks)

    def check(self, tools: Tools | None) -> None:
        """Raise `DataError` if the model can't be offered tools, or its calls can't be read."""
        if tools and self._obstacle:
            raise DataError(
                self._obstacle,
                fix="set `tools_as: text` on the model, which lists the tools in the system "
                "message, or give the model another template with `chat_template:`",
            )

    def read(
        self, raw: str, *, prompt: str, tools: Tools | None, special: Sequence[str] = ()
    ) -> Parsed:
        """The parts of an answer.

        prompt: the end of the prompt's text, which may open the thinking. special: the texts of the
        answer's special tokens, which no part contains. Calls are read only if tools were offered.
        """
        if CHANNELS in self._source:
            return _in_channels(raw, prompt, tools, special)
        thought = split_thinking(raw, opened_in(prompt))
        if not thought.is_closed:
            return Parsed("", _without(thought.reasoning, special))
        reasoning = _without(thought.reasoning, special)
        if not tools or self._calls is None:
            return Parsed(str(_without(thought.text, special)), reasoning)
        try:
            text, calls = self._calls(thought.text, tools)
        except BadCall as error:
            return Parsed(thought.text, reasoning, call_error=str(error))
        return Parsed(str(_without(text, special)), reasoning, _in_openai_shape(calls))

    @cached_property
    def reads_calls(self) -> bool:
        """Whether the calls that the template writes can be read."""
        return self._calls is not None

    @cached_property
    def _calls(self) -> CallReader | None:
        """The reader of the template's tool calls; None if none reads what it writes."""
        try:
            written = _written_call(self._render)
        except FineryError:
            return None
        if CHANNELS in self._source:
            return _channel_calls if _reads(_channel_calls, written) else None
        own = next((read for read in READERS if _reads(read, written)), None)
        if own is not None or self._description is None:
            return own
        described = partial(_calls_by_description, self._description)
        return described if _reads(described, written) else None

    @cached_property
    def _description(self) -> dict[str, Any] | None:
        """What the trl package knows of the template; importing it takes seconds."""
        return _described_by_trl(self._source)

    @cached_property
    def _obstacle(self) -> str:
        """Why the model can't have tools; empty if it can."""
        asked: Conversation = [{"role": "user", "content": _SOUGHT}]
        if self._render(asked, _PROBE_TOOLS, True) == self._render(asked, None, True):
            return "the model's chat template leaves out the tools of a row"
        if not self.reads_calls:
            return "the tool calls that the model's chat template writes can't be read"
        return ""


# -- readers of calls ------------------------------------------------------------------------------


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
            end = _skip_space(text, end)
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
    return f"the tool call is followed by {_snippet(after)} rather than {closing}"


def _joined(parts: Sequence[str]) -> str:
    """The text around calls: without the white space that separates it from them."""
    first, *others = parts
    return "\n".join(filter(None, [first.rstrip(), *(part.strip() for part in others)]))


def _json_call(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """A call as a JSON object."""
    value, end = _json_value(text, at)
    return [_as_call(value)], end


def _json_calls(text: str, at: int, _tools: Tools) -> tuple[list[Call], int]:
    """Calls as a JSON array of objects."""
    value, end = _json_value(text, at)
    if not isinstance(value, list):
        raise BadCall("the tool calls are no JSON array")
    return [_as_call(item) for item in value], end


def _bare_json(text: str, _tools: Tools) -> Calls:
    """A text that is nothing but calls as JSON objects, as Llama 3.1 writes them."""
    body = text.strip().removeprefix("<|python_tag|>").strip()
    if not re.match(r'\{\s*"(name|type|parameters|arguments|function)"', body):
        return Calls(text, [])
    calls, at = list[Call](), 0
    while at < len(body):
        value, at = _json_value(body, at)
        if not calls and not _may_be_call(value):
            return Calls(text, [])
        calls.append(_as_call(value, "parameters"))
        at = _skip_space(body, at)
        at = _skip_space(body, at + body.startswith(";", at))
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
    while at < len(text):
        match = argument.match(text, at)
        if match is None:
            if not text[at:].strip():
                break
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
    can be. Raises `BadCall` for JSON with a key twice.
    """
    types = _types(name, key, tools)
    is_null = text in constants and constants[text] is None and "null" in types
    if "string" in types and not is_null:
        return text
    if text in constants:
        return constants[text]
    try:
        value, end = _json_value(text, 0)
    except _Repeated:
        raise
    except BadCall:
        return text
    return value if end == len(text.rstrip()) else text


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
    return _named(ast.unparse(node.func)), _unique(pairs)


def _python_value(node: ast.expr) -> Any:
    """A literal of Python, or of JSON, which nested values are written in."""
    if isinstance(node, ast.List):
        return [_python_value(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            names = [str(key) for key in keys]
            return _unique(list(zip(names, map(_python_value, node.values), strict=True)))
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
        raise BadCall(f"the tool call begins with {_snippet(text[at:])} rather than call:")
    end = text.find("<tool_call|>", head.end())
    if end < 0:
        raise BadCall("the tool call ends before <tool_call|>")
    parts = text[head.end() : end].split('<|"|>')
    # Every second part is a text between quotes.
    parts[::2] = [re.sub(r"([{,]\s*)([^\s{},:\[\]\"]+)\s*:", r'\1"\2":', p) for p in parts[::2]]
    parts[::2] = [re.sub(r'(?<![\w"])None(?![\w"])', "null", part) for part in parts[::2]]
    parts[1::2] = [json.dumps(part) for part in parts[1::2]]
    arguments = _whole_json("".join(parts))
    return [_as_call({"name": head[1], "arguments": arguments})], end


def _json_value(text: str, at: int) -> tuple[Any, int]:
    """(The JSON value at a position, the position after it.) Raises `BadCall`."""
    try:
        return _JSON.raw_decode(text, _skip_space(text, at))
    except json.JSONDecodeError as error:
        raise BadCall(f"the tool call isn't valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise BadCall("the tool call is nested too deeply") from error
    except ValueError as error:
        raise BadCall(f"the tool call isn't valid JSON: {error}") from error


def _whole_json(text: str) -> Any:
    """The JSON value that a text is. Raises `BadCall`."""
    value, end = _json_value(text, 0)
    if text[end:].strip():
        raise BadCall(f"the arguments of the tool call are followed by {_snippet(text[end:])}")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


class _Repeated(BadCall):
    """A key that occurs twice, so that programs differ in which value they take."""


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Pairs of an object. Raises `_Repeated`."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _Repeated(f"the tool call has {counts.most_common(1)[0][0]!r} twice")
    return values


_JSON = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique)


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _as_call(value: Any, other: str = "arguments") -> Call:
    """The call in a JSON object. other: what its arguments may be called too."""
    if not isinstance(value, dict):
        raise BadCall("the tool call is no JSON object")
    value = value["function"] if isinstance(value.get("function"), dict) else value
    if value.keys() >= _ARGUMENTS:
        raise BadCall("the tool call has both `arguments` and `parameters`")
    key = next((key for key in ("arguments", other) if key in value), "arguments")
    arguments = value.get(key, {})
    if isinstance(arguments, str):
        arguments = _whole_json(arguments or "{}")
    arguments = {} if arguments is None else arguments
    if key not in value and (unknown := sorted(set(value) - {"name", "id", "type"})):
        raise BadCall(f"the tool call has no `arguments`, but {', '.join(map(repr, unknown))}")
    if not isinstance(arguments, dict):
        raise BadCall("the arguments of the tool call are no JSON object")
    return _named(value.get("name")), arguments


def _named(name: Any) -> str:
    """The name of a function. Raises `BadCall` if it can't be one."""
    if not isinstance(name, str) or not name.strip():
        raise BadCall("the tool call has no name")
    if not _NAME.fullmatch(name.strip()):
        raise BadCall(f"the tool call has no name, but {_snippet(name)}")
    return name.strip()


def _snippet(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


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
_MARKS = ("<tool_call>", "<|tool_call_start|>", "<|tool_call>", "[TOOL_CALLS]", "<|tool_call|>")


# -- answers in channels ---------------------------------------------------------------------------


class _Part(NamedTuple):
    """A message within an answer. recipient: whom it calls; empty for text and thinking."""

    channel: str
    recipient: str
    content: str


_TURN = "<|start|>assistant"
_PART_ENDS = re.compile(r"<\|(?:end|call|return)\|>|(?=<\|start\|>)")


def _parts(raw: str, prompt: str = "") -> list[_Part]:
    """The messages of an answer as gpt-oss writes them. prompt: its end may begin the first one.

    A call's recipient stands before or after the channel (OpenAI's Harmony format has both).
    """
    return [_part(part) for part in _PART_ENDS.split(_begun(raw, prompt)) if part.strip()]


def _begun(raw: str, prompt: str) -> str:
    """An answer with what its prompt already wrote of it."""
    _, turn, begun = prompt.rpartition(_TURN)
    return begun + raw if turn and "<|start|>" not in begun else raw


def _part(text: str) -> _Part:
    head, message, content = text.partition("<|message|>")
    channel = re.search(r"<\|channel\|>\s*(\w+)", head)
    recipient = re.search(r"(?:^|\s)to=([^\s<]+)", head.removeprefix(_TURN))
    if not message:  # a text without a header, or a header that was cut, which is no call's JSON
        return _Part("final", recipient[1] if recipient else "", text)
    return _Part(channel[1] if channel else "", recipient[1] if recipient else "", content)


def _channel_calls(text: str, _tools: Tools) -> Calls:
    """The calls of an answer in channels. Raises `BadCall`."""
    parts = _parts(text)
    calls = [
        _as_call({"name": part.recipient.removeprefix("functions."), "arguments": part.content})
        for part in parts
        if part.recipient
    ]
    others = (p.content.strip() for p in parts if not p.recipient and p.channel != "analysis")
    return Calls("\n".join(filter(None, others)), calls)


def _in_channels(raw: str, prompt: str, tools: Tools | None, special: Sequence[str]) -> Parsed:
    """The parts of an answer that is a sequence of channels."""
    parts = _parts(raw, prompt)
    thoughts = [p.content.strip() for p in parts if p.channel == "analysis" and not p.recipient]
    reasoning = _without("\n".join(filter(None, thoughts)) or None, special)
    if not tools:
        texts = [p.content for p in parts if p.channel != "analysis" or p.recipient]
        return Parsed(str(_without("\n".join(texts), special)), reasoning)
    try:
        text, calls = _channel_calls(_begun(raw, prompt), tools)
    except BadCall as error:
        return Parsed(raw, reasoning, call_error=str(error))
    return Parsed(str(_without(text, special)), reasoning, _in_openai_shape(calls))


# -- the notation of a template --------------------------------------------------------------------


def _written_call(render: Render) -> str:
    """What the template writes as the answer that is one call."""
    user = {"role": "user", "content": _SOUGHT}
    function = {"name": _PROBED[0], "arguments": _PROBED[1]}
    call = {"id": "call00001", "type": "function", "function": function}
    # Some templates refuse ids that aren't of nine characters.
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    whole = render([user, answer], _PROBE_TOOLS, False)
    plain = render([user, {"role": "assistant", "content": _SAID}], _PROBE_TOOLS, False)
    start, _, end = plain.rpartition(_SAID)
    return whole.removeprefix(start).rpartition(_SOUGHT)[2].removesuffix(end)


def _reads(reader: CallReader, written: str) -> bool:
    """Whether a reader returns the call that the template wrote."""
    try:
        return reader(split_thinking(written).text, _PROBE_TOOLS).calls == [_PROBED]
    except BadCall:
        return False


def _in_openai_shape(calls: Sequence[Call]) -> list[dict[str, Any]] | None:
    """Calls in the shape of the OpenAI Chat Completions API; None instead of none."""
    return [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
        }
        for number, (name, arguments) in enumerate(calls)
    ] or None


def _without(text: str | None, special: Sequence[str]) -> str | None:
    for token in special:
        text = text.replace(token, "") if text else text
    return text


# -- descriptions of templates in the trl package --------------------------------------------------


def _described_by_trl(source: str) -> dict[str, Any] | None:
    """The trl package's description of a chat template that it knows; None without the package."""
    try:
        from trl.chat_template_utils import add_response_schema
    except ImportError:
        return None
    template: Any = SimpleNamespace(chat_template=source, response_template=None)
    try:
        add_response_schema(template)
    except ValueError:
        return None
    description: dict[str, Any] | None = template.response_template
    return description


def _calls_by_description(description: dict[str, Any], raw: str, tools: Tools) -> Calls:
    """The calls that the trl package's description finds. Raises `BadCall`."""
    from transformers.utils.chat_parsing import parse_response

    try:
        fields = parse_response(raw, description, prefix="", tools=list(tools))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadCall(f"the tool call can't be read: {error}") from error
    calls = [_as_call(call) for call in fields.get("tool_calls") or ()]
    return Calls(str(fields.get("content") or ""), calls)
