"""Raw answers of local models into text, thinking and tool calls, by what the template writes.

A chat template writes tool calls in its family's own notation. Which one is found by rendering a
call and reading it back: a reader is right if it returns that very call. The trl package carries
descriptions of further templates, which transformers can read by; they are used if it is installed.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from finery import DataError, FineryError
from finery.rows import Conversation
from finery.rows.chat.thinking import TAGS, opened_in, split_thinking
from finery_transformers.parsing.calls import (
    BadCall,
    Call,
    CallReader,
    Tools,
    in_openai_shape,
    without,
)
from finery_transformers.parsing.channels import CHANNELS, channel_calls, in_channels
from finery_transformers.parsing.described import calls_by_description, described_by_trl
from finery_transformers.parsing.notations import MARKS, READERS
from finery_transformers.parsing.parsed import Parsed

Render = Callable[[Conversation, Tools | None, bool], str]
"""(messages, tools, whether to add the generation prompt) → the chat template's text."""
_SOUGHT = "finery asks"
_SAID = "finery answers"
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
        marks = (*TAGS, *MARKS, CHANNELS)
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
            return in_channels(raw, prompt, tools, special)
        thought = split_thinking(raw, opened_in(prompt))
        if not thought.is_closed:
            return Parsed("", without(thought.reasoning, special))
        reasoning = without(thought.reasoning, special)
        if not tools or self._calls is None:
            return Parsed(str(without(thought.text, special)), reasoning)
        try:
            text, calls = self._calls(thought.text, tools)
        except BadCall as error:
            return Parsed(thought.text, reasoning, call_error=str(error))
        return Parsed(str(without(text, special)), reasoning, in_openai_shape(calls))

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
            return channel_calls if _reads(channel_calls, written) else None
        own = next((read for read in READERS if _reads(read, written)), None)
        if own is not None or self._description is None:
            return own
        described = partial(calls_by_description, self._description)
        return described if _reads(described, written) else None

    @cached_property
    def _description(self) -> dict[str, Any] | None:
        """What the trl package knows of the template; importing it takes seconds."""
        return described_by_trl(self._source)

    @cached_property
    def _obstacle(self) -> str:
        """Why the model can't have tools; empty if it can."""
        asked: Conversation = [{"role": "user", "content": _SOUGHT}]
        if self._render(asked, _PROBE_TOOLS, True) == self._render(asked, None, True):
            return "the model's chat template leaves out the tools of a row"
        if not self.reads_calls:
            return "the tool calls that the model's chat template writes can't be read"
        return ""


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
