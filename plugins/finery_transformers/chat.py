"""Conversion of messages to tokens, shared so that training and inference use the same prompts.

The chat template is Jinja from the model's own files, run in transformers' sandbox. Messages have
the shape of the OpenAI Chat Completions API. Two things differ between templates and are translated
here: the name under which a template reads an assistant's thinking, and whether it takes the
arguments of tool calls as objects or as JSON text.
"""

import json
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import DataError, FineryError, StepError, outside_key
from finery.advanced import shown
from finery.rows import Conversation, Message
from finery.rows.chat.thinking import THINKING_TAGS, split_thinking
from finery.rows.chat.turns import THINKING_KEYS
from finery.rows.templates.limits import render_messages

if TYPE_CHECKING:
    from jinja2 import TemplateSyntaxError
    from transformers import PreTrainedTokenizerBase

TEMPLATE_FILE = "chat_template.jinja"
THINK = "<think>"
END_THINK = THINKING_TAGS[THINK]
SWITCHES = ("enable_thinking", "thinking")
"""Arguments with which templates switch thinking on and off."""
_MARK = "finery marks the answer"
_THOUGHT = "finery marks the thinking"

Tools = Sequence[Mapping[str, Any]] | None
QUESTION: Message = {"role": "user", "content": "?"}
CALLED: Conversation = [
    QUESTION,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "call00001",  # some templates want nine characters
                "type": "function",
                "function": {"name": "lookup", "arguments": {"of": _MARK}},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call00001", "name": "lookup", "content": "1"},
    {"role": "assistant", "content": "."},
]
"""A conversation with a tool call, to find out what a template writes of it."""
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "lookup",
            "description": "Look something up.",
            "parameters": {
                "type": "object",
                "properties": {"of": {"type": "string", "description": "What to look up."}},
                "required": ["of"],
            },
        },
    }
]
"""The tool that `CALLED` calls."""


class PromptDiffers(DataError):
    """Raised if a template doesn't begin an answered conversation with the text of its prompt.

    prompt, whole: both texts.
    """

    def __init__(self, prompt: str, whole: str) -> None:
        super().__init__(
            "the chat template writes a prompt differently once it is answered",
            fix="use a chat template that writes earlier turns in the same way with and without an "
            "answer",
        )
        self.prompt = prompt
        self.whole = whole


class PromptTemplate(NamedTuple):
    """A tokenizer with its chat template, which turns messages into tokens.

    arguments: of the template, besides messages and tools, e.g. `enable_thinking`.
    """

    tokenizer: "PreTrainedTokenizerBase"
    arguments: Mapping[str, Any] = MappingProxyType({})

    def text(self, messages: Conversation, tools: Tools = None) -> str:
        """The text that the template writes.

        Raises `DataError` if it refuses the conversation, or isn't Jinja.
        """
        from jinja2 import TemplateSyntaxError

        asked: dict[str, Any] = {"tools": list(tools) if tools else None, **self.arguments}
        try:
            ordered = _in_order_of_calls(messages)
            return _called(self.tokenizer, _with_thinking(self.tokenizer, ordered), asked)
        except TemplateSyntaxError as error:
            raise _unreadable(self.tokenizer, error) from error
        except FineryError:
            raise
        except Exception as error:  # a template can raise anything: 1 / 0, an attribute of None, …
            raise DataError(
                "the model's chat template refuses the conversation: "
                f"{str(error) or type(error).__name__}",
                details=[f"{m.get('role')}: {str(m.get('content'))[:80]}" for m in messages],
                fix="use roles that the template accepts, or give the model another template",
            ) from error

    def prompt(self, messages: Conversation, tools: Tools = None) -> str:
        """The text of a prompt, up to where the assistant's answer begins."""
        return self.having(add_generation_prompt=True).text(messages, tools)

    def having(self, **arguments: Any) -> "PromptTemplate":
        """The template with further arguments."""
        return self._replace(arguments={**self.arguments, **arguments})

    def tokens(self, text: str) -> list[int]:
        """Token ids of a text that the template wrote, which has its special tokens already."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def prompt_tokens(self, messages: Conversation, tools: Tools = None) -> list[int]:
        """Token ids of a prompt, up to where the assistant's answer begins.

        Raises `DataError` if the template refuses the conversation.
        """
        return self.tokens(self.prompt(messages, tools))

    def row_tokens(
        self, prompt: Conversation, completion: Conversation, ends: Set[int], tools: Tools = None
    ) -> tuple[list[int], list[int]]:
        """Token ids of a prompt, and of the prompt with its completion, which extends the former.

        See `answer_tokens`. Raises `PromptDiffers` where the text of the completed conversation
        doesn't begin with that of the prompt.
        """
        asked, whole = self.prompt(prompt, tools), self.text([*prompt, *completion], tools)
        ids = self.tokens(asked)
        return ids, [*ids, *self.answer_tokens(asked, whole, ids, ends)]

    def answer_tokens(
        self, asked: str, whole: str, prompt: Sequence[int], ends: Set[int]
    ) -> list[int]:
        """Token ids of what follows the text `asked` in the text `whole`, up to the end of a turn.

        prompt: the token ids of `asked`. An answer is cut after the first token of `ends` that only
        white space and other tokens of `ends` follow. Templates write more after the end of a turn
        (a line break, an EOS), which is never generated, because generation stops there. If several
        such tokens follow each other, as in Cohere's templates, all are learned, since programs
        stop at different ones. If a tokenizer would merge the end of the prompt and the beginning
        of the answer into one token, the answer is tokenized separately, since a model continues
        the prompt's own tokens. Raises `PromptDiffers` if `whole` doesn't begin with `asked`.
        """
        if not whole.startswith(asked):
            raise PromptDiffers(asked, whole)
        ids = self.tokens(whole)
        if ids[: len(prompt)] == list(prompt):
            answer = ids[len(prompt) :]
        else:
            answer = self._continuation(whole[len(asked) :])
        return answer[: self._length(answer, ends)]

    def _length(self, answer: Sequence[int], ends: Set[int]) -> int:
        """The number of tokens of an answer up to the end of its turn; all if nothing ends it."""
        last = next((i for i in range(len(answer) - 1, -1, -1) if answer[i] in ends), None)
        if last is None:
            return len(answer)
        decode: Any = self.tokenizer.decode
        end = last
        for i in range(last - 1, -1, -1):
            if answer[i] in ends:
                end = i if answer[i + 1] not in ends else end
            elif decode([answer[i]]).strip():
                break
        return end + 1

    def _continuation(self, text: str) -> list[int]:
        """Token ids of a text that continues another one.

        Some tokenizers put a space before the beginning of a text, which a continuation must not
        have.
        """
        first: Any = self.tokenizer.convert_ids_to_tokens(self.tokens("x"))[0]
        for anchor in ("",) if first == "x" else ("\n", ".", "1"):
            before, both = self.tokens(anchor), self.tokens(anchor + text)
            if both[: len(before)] == before:
                return both[len(before) :]
        return self.tokens(text)

    def ends_of_turn(self) -> set[int]:
        """Token ids that end an answer: the template's end-of-turn tokens and the tokenizer's EOS.

        The end-of-turn token is the first special token after an assistant's message, and the one
        with which a turn with a tool call ends, if that is a special token.
        """
        ends = {t for t in [self.tokenizer.eos_token_id] if isinstance(t, int)}
        answer = {"role": "assistant", "content": _MARK}
        text = self.text([QUESTION, answer]).rpartition(_MARK)[2]
        special = self.special_ids()
        answered = [token for token in self.tokens(text) if token in special]
        try:
            call = self.text(CALLED[:2], TOOLS)
        except DataError:
            call = ""
        after = call.rpartition(_MARK)[2] if _MARK in call else ""  # else it writes no calls
        return ends | set(answered[:1]) | set(self.tokens(after.rstrip())[-1:]) & special

    def ends_with(self, more: Set[int]) -> list[int]:
        """Token ids that end an answer, with those of the model. `StepError` if there are none."""
        if ends := self.ends_of_turn() | more:
            return sorted(ends)
        raise StepError(
            "the end of the model's answers is unknown: its tokenizer has no end-of-sequence "
            "token, and its chat template writes no special token after an answer",
            fix="set eos_token in the model's tokenizer_config.json",
        )

    def has_two_bos(self, ids: Sequence[int]) -> bool:
        """Whether token ids begin with two BOS tokens."""
        bos = self.tokenizer.bos_token_id
        return bos is not None and list(ids[:2]) == [bos, bos]

    def special_ids(self) -> set[int]:
        """The ids of the tokenizer's special tokens."""
        added = self.tokenizer.added_tokens_decoder.items()
        return set(self.tokenizer.all_special_ids) | {i for i, token in added if token.special}

    def decoded(self, tokens: Sequence[int], *, special: bool = True) -> str:
        """The text of tokens as they are. special: with the text of special tokens."""
        decode: Any = self.tokenizer.decode
        given = {"skip_special_tokens": not special, "clean_up_tokenization_spaces": False}
        return str(decode(list(tokens), **given))

    def unasked_header(self) -> str:
        """The text that opens an answer but is missing from prompts; empty if there is none.

        A template without a generation prompt ignores `add_generation_prompt`. That is fine if it
        writes nothing before answers, like Mistral's.
        """
        bare = self.text([QUESTION])
        if self.prompt([QUESTION]) != bare:
            return ""
        whole = self.text([QUESTION, {"role": "assistant", "content": _MARK}])
        before = whole.removeprefix(bare).partition(_MARK)[0]
        return before if whole.startswith(bare) and before.strip() else ""

    def thinking_switch(self) -> dict[str, bool] | None:
        """The arguments that switch the template's thinking off; None if it has no switch."""
        for name in SWITCHES:
            texts = {self.having(**{name: value}).prompt([QUESTION]) for value in (True, False)}
            if len(texts) > 1:
                return {name: False}
        return None


def _in_order_of_calls(messages: Conversation) -> Conversation:
    """The messages, with answers of tools in the order of the calls that their ids name.

    Most templates write no ids: there an answer belongs to a call by its place alone.
    """
    ordered = list(messages)
    for index, message in enumerate(messages):
        ids = [call.get("id") for call in message.get("tool_calls") or ()]
        answers = ordered[index + 1 : index + 1 + len(ids)]
        answered = [m.get("tool_call_id") for m in answers if m.get("role") == "tool"]
        if len(ids) > 1 and len(set(ids)) == len(ids) == len(answered) and {*ids} == {*answered}:
            places = {name: place for place, name in enumerate(ids)}
            answers.sort(key=lambda m: places[m["tool_call_id"]])
            ordered[index + 1 : index + 1 + len(ids)] = answers
    return ordered


def thinking_field(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The name under which the template reads an assistant's thinking; None if it doesn't."""
    field: str | None = _of_template(tokenizer, "thinking", _thinking_field)
    return field


def _thinking_field(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    for field in THINKING_KEYS:
        answer = {"role": "assistant", "content": _MARK, field: _THOUGHT}
        if _THOUGHT in _probed(tokenizer, [QUESTION, answer]):
            return field
    for field in THINKING_KEYS:  # some write it only next to calls
        if _THOUGHT in _probed(tokenizer, [CALLED[0], {**CALLED[1], field: _THOUGHT}], TOOLS):
            return field
    return None


def without_think_tags(message: Message) -> Message:
    """An assistant's message whose text begins with a think block: the block apart from the text.

    Other messages as they are.
    """
    text = message.get("content")
    if message.get("role") != "assistant" or message.get("reasoning_content"):
        return message
    if not isinstance(text, str) or not text.lstrip().startswith(THINK):
        return message
    thought = split_thinking(text)
    if not thought.is_closed:
        return message
    split = {**message, "content": thought.text}
    return {**split, "reasoning_content": thought.reasoning} if thought.reasoning else split


def thinking_of(message: Message) -> str:
    """The thinking of an assistant's message, from its own key or a think block in the text."""
    if message.get("role") != "assistant":
        return ""
    return str(without_think_tags(message).get("reasoning_content") or "").strip()


def _with_thinking(tokenizer: "PreTrainedTokenizerBase", messages: Conversation) -> Conversation:
    """The messages with their thinking where the template reads it.

    A template that reads none gets them as they are, with a think block in the text.
    """
    if not any(m.get("reasoning_content") or THINK in str(m.get("content")) for m in messages):
        return messages
    field = thinking_field(tokenizer)
    if field is None:
        return messages
    split = [without_think_tags(message) for message in messages]
    if field == THINKING_KEYS[0]:
        return split
    return [{field if k == THINKING_KEYS[0] else k: v for k, v in m.items()} for m in split]


def _of_template(
    tokenizer: "PreTrainedTokenizerBase", name: str, probe: Callable[[Any], Any]
) -> Any:
    """The result of `probe` for the tokenizer's template, computed only once."""
    key = (name, str(tokenizer.chat_template))
    if key not in _PROBED:
        _PROBED[key] = probe(tokenizer)
    return _PROBED[key]


_PROBED: dict[tuple[str, str], Any] = {}


def _probed(
    tokenizer: "PreTrainedTokenizerBase", messages: Conversation, tools: Tools = None
) -> str:
    """The template's text of these very messages; empty if it refuses them."""
    try:
        return _written(tokenizer, messages, {"tools": tools})
    except Exception:  # a template can raise anything
        return ""


def _called(
    tokenizer: "PreTrainedTokenizerBase", messages: Conversation, asked: dict[str, Any]
) -> str:
    """The template's output: the same for arguments of tool calls as an object and as its JSON.

    Most templates expect objects, as servers pass them. The few that join the arguments with text,
    or write them without turning them into JSON, get JSON.
    """
    if not any(message.get("tool_calls") for message in messages):
        return _written(tokenizer, messages, asked)
    if not _of_template(tokenizer, "arguments", _wants_text):
        try:
            return _written(tokenizer, _with_arguments(messages, _as_object), asked)
        except TypeError:  # it is raised only for these messages
            pass
    return _written(tokenizer, _with_arguments(messages, _as_text), asked)


def _wants_text(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the template writes the arguments of a call as JSON only if they are JSON text."""
    quoted, text = f"'of': '{_MARK}'", f'"of": "{_MARK}"'
    as_text = _with_arguments(CALLED, _as_text)
    return quoted in _probed(tokenizer, CALLED, TOOLS) and text in _probed(
        tokenizer, as_text, TOOLS
    )


def _written(
    tokenizer: "PreTrainedTokenizerBase", messages: Conversation, asked: dict[str, Any]
) -> str:
    return render_messages(
        lambda: tokenizer.apply_chat_template(messages, tokenize=False, **asked), messages
    )


def _with_arguments(messages: Conversation, change: Callable[[Any], Any]) -> Conversation:
    """The messages with changed arguments of their tool calls; messages without calls as is."""
    return [
        {**message, "tool_calls": [_with_argument(call, change) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _with_argument(call: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    function = call.get("function", {})
    if "arguments" not in function:
        return call
    return {**call, "function": {**function, "arguments": change(function["arguments"])}}


def _as_object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments or "{}")
    except ValueError:  # the template gets it as the row has it
        return arguments


def _as_text(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


@outside_key
def _unreadable(tokenizer: "PreTrainedTokenizerBase", error: "TemplateSyntaxError") -> DataError:
    """The error for a chat template that isn't Jinja, with its line if it has its own file."""
    folder = Path(tokenizer.name_or_path)
    files = [folder / name for name in (TEMPLATE_FILE, "tokenizer_config.json")]
    file = next((f for f in files if f.is_file()), None)
    line = f":{error.lineno}" if file is not None and file.name == TEMPLATE_FILE else ""
    text = str(tokenizer.chat_template).splitlines()[error.lineno - 1]
    return DataError(
        f"the model's chat template has a syntax error: {error.message}",
        where=f"{shown(file)}{line}" if file is not None else None,
        details=[f"line {error.lineno}: {text[:100]}"],
        fix="correct the template, or give the model another one",
    )
