"""Parses a local model's raw text or tokens into text, thinking and tool calls.

Each family's chat template has its own notation for tool calls. The right reader is found by
rendering a call and reading it back: it must return that very call.
"""

import json
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from unicodedata import normalize

import msgspec
from blake3 import blake3

from finery import Completion, DataError, FineryError, Request, Sampling
from finery.advanced import shortened
from finery.rows import Conversation, Message
from finery.rows.chat.thinking import THINKING_TAGS, open_thinking_tag, split_thinking
from finery_transformers.answering.calls import (
    CHANNELS,
    MARKS,
    READERS,
    BadCall,
    Call,
    CallReader,
    Tools,
    channel_calls,
    channel_parts,
    whole_turn,
)
from finery_transformers.chat import PromptTemplate
from finery_transformers.wrapping import source_of

Render = Callable[[Conversation, Tools | None, bool], str]
"""(messages, tools, whether to add the generation prompt) → the chat template's text."""
PROMPT_TOKENS = 64
"""Tokens at the end of a prompt that show how its answer begins."""
LONGEST_VALUE = 60
"""Characters of a value that a reason shows."""
_QUESTION, _ANSWER = "finery asks", "finery answers"
_PROBED: Call = ("find_place", {"city": "Paris", "days": 3, "options": {"near": [1, True]}})
_PROBE_TOOLS: Tools = [{"type": "function", "function": {
    "name": _PROBED[0], "description": "Find a place.",
    "parameters": {"type": "object", "required": ["city"], "properties": {
        "city": {"type": "string", "description": "A city."},
        "days": {"type": "integer", "description": "Days."},
        "options": {"type": "object", "description": "More.", "properties": {
            "near": {"type": "array", "description": "Near.",
                     "items": {"type": ["integer", "boolean"], "description": "One."}}}},
    }},
}}]  # fmt: skip


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

        That is necessary if the template writes tags, because some families have special tokens for
        them.
        """
        return any(mark.strip() in self._source for mark in (*THINKING_TAGS, *MARKS, CHANNELS))

    def check(self, tools: Tools | None) -> None:
        """Raise `DataError` if the model can't be offered tools, or its calls can't be read."""
        if tools and self._obstacle:
            raise DataError(
                self._obstacle,
                fix="set `tools_as: text` on the model, which lists the tools in the system "
                "message, or give the model another template with `chat_template:`",
            )

    def schema_after(self, prompt: str, sampling: Sampling) -> dict[str, Any] | None:
        """The schema that an answer follows from its first token on; None without one.

        prompt: the end of its text. Thinking isn't JSON: `DataError` if an answer that begins with
        it must follow a schema.
        """
        if sampling.schema is None or not (CHANNELS in self._source or open_thinking_tag(prompt)):
            return sampling.schema
        if sampling.strict:
            raise DataError(
                "the chat template begins answers with thinking, which can't follow a JSON Schema",
                fix="turn it off, e.g. `chat_template_kwargs: {enable_thinking: false}` on the "
                "model, or let models answer freely",
            )
        return None

    def read(
        self, raw: str, *, prompt: str, tools: Tools | None, special: Sequence[str] = ()
    ) -> Parsed:
        """The parts of an answer.

        prompt: the end of the prompt's text, which may open the thinking. special: the texts of the
        answer's special tokens, which no part contains. Calls are read only if tools were offered.
        """

        def plain(text: str) -> str:
            for token in special:
                text = text.replace(token, "")
            return text

        if CHANNELS in self._source:
            written, unread = whole_turn(raw, prompt), raw
            thinking, text = _channels(written)
        else:
            thought = split_thinking(raw, open_thinking_tag(prompt))
            thinking, text = thought.reasoning, thought.text if thought.is_closed else ""
            written = unread = text
        reasoning = thinking and plain(thinking)
        if tools and self.read_calls is not None:
            try:
                text, calls = self.read_calls(written, tools)
            except BadCall as error:
                return Parsed(unread, reasoning, call_error=str(error))
            return Parsed(plain(text), reasoning, _in_openai_shape(calls))
        return Parsed(plain(text), reasoning)

    @cached_property
    def read_calls(self) -> CallReader | None:
        """The reader of the template's tool calls; None if none reads what it writes."""
        try:
            written = _written_call(self._render)
        except FineryError:
            return None
        readers = (channel_calls,) if CHANNELS in self._source else READERS
        return next((read for read in readers if _reads(read, written)), None)

    @cached_property
    def _obstacle(self) -> str:
        """Why the model can't have tools; empty if it can."""
        prompt: Conversation = [{"role": "user", "content": _QUESTION}]
        if self._render(prompt, _PROBE_TOOLS, True) == self._render(prompt, None, True):
            return "the model's chat template leaves out the tools of a row"
        if self.read_calls is None:
            return "the tool calls that the model's chat template writes can't be read"
        return ""


def _channels(text: str) -> tuple[str | None, str]:
    """(thinking, text) of an answer in channels; its calls are part of the text."""
    thoughts, texts = list[str](), list[str]()
    for part in channel_parts(text):
        if part.channel == "analysis" and not part.recipient:
            thoughts.append(part.content.strip())
        else:
            texts.append(part.content)
    return "\n".join(filter(None, thoughts)) or None, "\n".join(texts)


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


def _written_call(render: Render) -> str:
    """The template's text for an answer that consists of one call."""
    user = {"role": "user", "content": _QUESTION}
    function = {"name": _PROBED[0], "arguments": _PROBED[1]}
    call = {"id": "call00001", "type": "function", "function": function}
    # Some templates refuse ids that aren't of nine characters.
    answer = {"role": "assistant", "content": "", "tool_calls": [call]}
    whole = render([user, answer], _PROBE_TOOLS, False)
    plain = render([user, {"role": "assistant", "content": _ANSWER}], _PROBE_TOOLS, False)
    start, _, end = plain.rpartition(_ANSWER)
    return whole.removeprefix(start).rpartition(_QUESTION)[2].removesuffix(end)


def _reads(reader: CallReader, written: str) -> bool:
    """Whether a reader returns the call that the template wrote."""
    try:
        return reader(split_thinking(written).text, _PROBE_TOOLS).calls == [_PROBED]
    except BadCall:
        return False


class TokenReader:
    """Reads answers as engines do; trainings check with it what they teach.

    reader: reads their text.
    """

    def __init__(self, template: PromptTemplate) -> None:
        self._template = template
        self._special = frozenset(template.special_ids())
        self.reader = AnswerReader(source_of(template.tokenizer, with_tools=True), self._rendered)

    def text(self, tokens: Sequence[int]) -> str:
        """The text of an answer, with special tokens where the reader needs them."""
        return self._template.decoded(tokens, special=self.reader.needs_special_tokens)

    def completion(
        self,
        answer: Sequence[int],
        ends: Container[int],
        *,
        prompt: Sequence[int],
        request: Request,
        stop: Sequence[str],
    ) -> Completion:
        """The answer to a request, cut where it ends. `completion_tokens` counts the end token too.

        answer: token ids, up to one in `ends`, a text in `stop` or the limit, and perhaps beyond.
        """
        length = next((i for i, token in enumerate(answer) if token in ends), len(answer))
        text = self.text(answer[:length])
        cut = min((at for s in stop if (at := text.find(s)) >= 0), default=None)
        is_finished = cut is not None or length < len(answer)
        parsed = self.parts(
            text[:cut], answer[:length], prompt=self.end_of(prompt), tools=request.tools
        )
        return Completion(
            **parsed._asdict(),
            finish_reason=parsed.finish_reason(is_finished),
            prompt_tokens=len(prompt),
            completion_tokens=length + (cut is None and length < len(answer)),
        )

    def prompt(self, request: Request, max_tokens: int, context: int | None) -> list[int]:
        """The token ids of a request.

        `DataError` if the template refuses it, or if it leaves no room in the context to answer.
        """
        tokens = self._template.prompt_tokens(request.messages, request.tools)
        if context is not None and len(tokens) + max_tokens > context:
            raise DataError(
                f"a prompt of {len(tokens)} tokens and an answer of up to {max_tokens} don't fit "
                f"the model's context of {context}",
                details=[str(turn.get("content"))[:100] for turn in request.messages[-1:]],
                fix="shorten the prompt or lower max_tokens",
            )
        return tokens

    def end_of(self, prompt: Sequence[int]) -> str:
        """The text of the prompt's last tokens."""
        return self._template.decoded(prompt[-PROMPT_TOKENS:])

    def parts(
        self, text: str, tokens: Sequence[int], *, prompt: str, tools: Tools | None
    ) -> Parsed:
        """The parts of an answer. text: of its tokens, perhaps cut. prompt: the end of its text."""
        special = [self._template.decoded([token]) for token in set(tokens) & self._special]
        return self.reader.read(text, prompt=prompt, tools=tools, special=special)

    def _rendered(
        self, messages: Conversation, tools: Tools | None, add_generation_prompt: bool
    ) -> str:
        template = self._template.having(add_generation_prompt=add_generation_prompt)
        return template.text(messages, tools)


def seed_of(seed: int, tokens: Sequence[Any]) -> int:
    """A seed for this prompt or batch, so that others with the same `seed` draw other numbers."""
    digest = blake3(msgspec.json.encode([seed, tokens])).digest(8)
    return int.from_bytes(digest, "little") >> 1


# -- calls of training rows ------------------------------------------------------------------------

_TOKEN_READERS: dict[tuple[str, str], TokenReader] = {}
"""By template and its arguments."""


def misread(
    template: PromptTemplate,
    prompt: str,
    answer: Sequence[int],
    message: Message,
    tools: Sequence[Mapping[str, Any]],
) -> str:
    """How the calls of a message differ from those read back from its tokens; empty if they don't.

    A template may write a call so that it can't be read back: `True` for true and for the text
    "True", or quotes within quotes. A model that learns such calls perfectly would get a low score.
    If no reader is known for the template's notation, nothing differs.

    prompt: its text. answer: the tokens up to the end of the turn.
    """
    key = (str(template.tokenizer.chat_template), repr(template.arguments))
    if key not in _TOKEN_READERS:
        _TOKEN_READERS[key] = TokenReader(template)
    answers = _TOKEN_READERS[key]
    if answers.reader.read_calls is None:
        return ""
    raw = answers.text(answer)
    parsed = answers.parts(raw, answer, prompt=prompt, tools=[dict(tool) for tool in tools])
    if parsed.call_error is not None:
        return f"the calls can't be read back: {parsed.call_error}: {shortened(raw, LONGEST_VALUE)}"
    calls = [_name_and_arguments(call) for call in message["tool_calls"]]
    read = [_name_and_arguments(call) for call in parsed.tool_calls or ()]
    if [name for name, _ in calls] != [name for name, _ in read]:
        names = ", ".join(name for name, _ in read) or "none"
        return f"the calls read back are {names}: {shortened(raw, LONGEST_VALUE)}"
    for (name, given), (_, returned) in zip(calls, read, strict=True):
        for reason in _differences(name, given, returned):
            return reason
    return ""


def _name_and_arguments(call: Mapping[str, Any]) -> tuple[str, Any]:
    """(name, arguments) of a call in OpenAI's shape."""
    arguments = call["function"].get("arguments") or {}
    decoded = json.loads(arguments) if isinstance(arguments, str) else arguments
    return str(call["function"].get("name")), decoded or {}


def _differences(name: str, given: Any, read: Any) -> Iterator[str]:
    """The arguments that are read back differently, in words."""
    for key in dict.fromkeys([*given, *read]):
        argument = f"the argument {key} of {name}"
        if key not in read:
            yield f"{argument} isn't read back"
        elif key not in given:
            yield f"{argument} is read back, but the call doesn't have it"
        elif not _is_same(given[key], read[key]):
            texts = [json.dumps(v, ensure_ascii=False) for v in (read[key], given[key])]
            texts = [shortened(text, LONGEST_VALUE) for text in texts]
            yield f"{argument} is read back as {texts[0]} rather than {texts[1]}"


def _is_same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, up to the normalisation of text by tokenizers (NFC)."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, str) and isinstance(other, str):
        return normalize("NFC", one) == normalize("NFC", other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)
