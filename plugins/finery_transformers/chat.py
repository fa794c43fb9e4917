"""Conversion of messages to tokens, shared so that training and inference use the same prompts.

The chat template is Jinja from the model's own files, run in transformers' sandbox. Messages have
the shape of the OpenAI Chat Completions API. Two things differ between templates and are translated
here: the name under which a template reads an assistant's thinking, and whether it takes the
arguments of tool calls as objects or as JSON text.
"""

import json
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import DataError, FineryError, outside_key
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

CALLED: Conversation = [
    {"role": "user", "content": "?"},
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


def prompt_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Conversation,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> list[int]:
    """Token ids of a prompt, up to where the assistant's answer begins.

    arguments: other arguments of the chat template. `DataError` if the template refuses the
    conversation.
    """
    return tokens_of(tokenizer, prompt_text(tokenizer, prompt, tools=tools, arguments=arguments))


def row_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Conversation,
    completion: Conversation,
    ends: Set[int],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of the prompt with its completion: the latter extends the former.

    See `answer_tokens`. Raises `PromptDiffers` where the text of the completed conversation doesn't
    begin with that of the prompt.
    """
    named: Any = {"tools": tools, "arguments": arguments}
    asked = prompt_text(tokenizer, prompt, **named)
    whole = rendered(tokenizer, [*prompt, *completion], **named)
    ids = tokens_of(tokenizer, asked)
    return ids, [*ids, *answer_tokens(tokenizer, asked, whole, ids, ends)]


def prompt_text(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Conversation,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """The text of a prompt, up to where the assistant's answer begins."""
    asked = {**(arguments or {}), "add_generation_prompt": True}
    return rendered(tokenizer, prompt, tools=tools, arguments=asked)


def answer_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    asked: str,
    whole: str,
    prompt: Sequence[int],
    ends: Set[int],
) -> list[int]:
    """Token ids of what follows the text `asked` in the text `whole`, up to the end of the turn.

    prompt: the token ids of `asked`. An answer is cut after the first token of `ends` that only
    white space and other tokens of `ends` follow. Templates write more after the end of a turn (a
    line break, an EOS), which is never generated, because generation stops there. If several such
    tokens follow each other, as in Cohere's templates, all are learned, since programs stop at
    different ones. If a tokenizer would merge the end of the prompt and the beginning of the answer
    into one token, the answer is tokenized separately, since a model continues the prompt's own
    tokens. Raises `PromptDiffers` if `whole` doesn't begin with `asked`.
    """
    if not whole.startswith(asked):
        raise PromptDiffers(asked, whole)
    ids = tokens_of(tokenizer, whole)
    if ids[: len(prompt)] == list(prompt):
        answer = ids[len(prompt) :]
    else:
        answer = _continuation(tokenizer, whole[len(asked) :])
    return answer[: _length(tokenizer, answer, ends)]


def _length(tokenizer: "PreTrainedTokenizerBase", answer: Sequence[int], ends: Set[int]) -> int:
    """The number of tokens of an answer up to the end of its turn; all if nothing ends it."""
    last = next((i for i in range(len(answer) - 1, -1, -1) if answer[i] in ends), None)
    if last is None:
        return len(answer)
    decode: Any = tokenizer.decode
    end = last
    for i in range(last - 1, -1, -1):
        if answer[i] in ends:
            end = i if answer[i + 1] not in ends else end
        elif decode([answer[i]]).strip():
            break
    return end + 1


def tokens_of(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a text that a chat template wrote, which has its special tokens already."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _continuation(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of a text that continues another one.

    Some tokenizers put a space before the beginning of a text, which a continuation must not have.
    """
    first: Any = tokenizer.convert_ids_to_tokens(tokens_of(tokenizer, "x"))[0]
    for anchor in ("",) if first == "x" else ("\n", ".", "1"):
        before, both = tokens_of(tokenizer, anchor), tokens_of(tokenizer, anchor + text)
        if both[: len(before)] == before:
            return both[len(before) :]
    return tokens_of(tokenizer, text)


def rendered(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Conversation,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """The text that the chat template writes.

    arguments: other arguments of the template. Raises `DataError` if it refuses the conversation,
    or isn't Jinja.
    """
    from jinja2 import TemplateSyntaxError

    asked: dict[str, Any] = {"tools": list(tools) if tools else None, **(arguments or {})}
    try:
        ordered = _in_order_of_calls(messages)
        return _called(tokenizer, _with_thinking(tokenizer, ordered), asked)
    except TemplateSyntaxError as error:
        raise _unreadable(tokenizer, error) from error
    except FineryError:
        raise
    except Exception as error:  # a template can raise anything: 1 / 0, an attribute of None, …
        raise DataError(
            "the model's chat template refuses the conversation: "
            f"{str(error) or type(error).__name__}",
            details=[f"{m.get('role')}: {str(m.get('content'))[:80]}" for m in messages],
            fix="use roles that the template accepts, or give the model another template",
        ) from error


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


def end_of_turn(
    tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any] | None = None
) -> set[int]:
    """Token ids that end an answer: the template's end-of-turn tokens and the tokenizer's EOS.

    The end-of-turn token is the first special token after an assistant's message, and the one with
    which a turn with a tool call ends, if that is a special token.
    """
    ends = {t for t in [tokenizer.eos_token_id] if isinstance(t, int)}
    question = {"role": "user", "content": "?"}
    answer = {"role": "assistant", "content": _MARK}
    text = rendered(tokenizer, [question, answer], arguments=arguments).rpartition(_MARK)[2]
    special = special_ids(tokenizer)
    answered = [token for token in tokens_of(tokenizer, text) if token in special]
    called = tokens_of(tokenizer, _after_a_call(tokenizer, arguments or {}).rstrip())
    return ends | set(answered[:1]) | set(called[-1:]) & special


def _after_a_call(tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any]) -> str:
    """The text after a tool call; empty if the template writes no calls."""
    try:
        text = rendered(tokenizer, CALLED[:2], tools=TOOLS, arguments=arguments)
    except DataError:
        return ""
    return text.rpartition(_MARK)[2] if _MARK in text else ""


def has_two_bos(tokenizer: "PreTrainedTokenizerBase", ids: Sequence[int]) -> bool:
    """Whether token ids begin with two BOS tokens."""
    bos = tokenizer.bos_token_id
    return bos is not None and list(ids[:2]) == [bos, bos]


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """The ids of a tokenizer's special tokens."""
    added = tokenizer.added_tokens_decoder.items()
    return set(tokenizer.all_special_ids) | {i for i, token in added if token.special}


def decoded(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int], *, special: bool) -> str:
    """The text of tokens as they are. special: with the text of special tokens."""
    decode: Any = tokenizer.decode
    return str(
        decode(list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
    )


def unasked_header(
    tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any] | None = None
) -> str:
    """The text that opens an answer but is missing from prompts; empty if there is none.

    A template without a generation prompt ignores `add_generation_prompt`. That is fine if it
    writes nothing before answers, like Mistral's.
    """
    question = [{"role": "user", "content": "?"}]
    asked = {**(arguments or {}), "add_generation_prompt": True}
    bare = rendered(tokenizer, question, arguments=arguments)
    if rendered(tokenizer, question, arguments=asked) != bare:
        return ""
    answered = [*question, {"role": "assistant", "content": _MARK}]
    whole = rendered(tokenizer, answered, arguments=arguments)
    before = whole.removeprefix(bare).partition(_MARK)[0]
    return before if whole.startswith(bare) and before.strip() else ""


def thinking_field(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """The name under which the template reads an assistant's thinking; None if it doesn't."""
    field: str | None = _of_template(tokenizer, "thinking", _thinking_field)
    return field


def thinking_switch(
    tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any] | None = None
) -> dict[str, bool] | None:
    """The arguments that switch the template's thinking off; None if it has no switch."""
    prompt = [{"role": "user", "content": "?"}]
    for name in SWITCHES:
        texts = {
            prompt_text(tokenizer, prompt, arguments={**(arguments or {}), name: value})
            for value in (True, False)
        }
        if len(texts) > 1:
            return {name: False}
    return None


def _thinking_field(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    question = {"role": "user", "content": "?"}
    for field in THINKING_KEYS:
        answer = {"role": "assistant", "content": _MARK, field: _THOUGHT}
        if _THOUGHT in _probed(tokenizer, [question, answer]):
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
    tokenizer: "PreTrainedTokenizerBase",
    messages: Conversation,
    tools: Sequence[Mapping[str, Any]] | None = None,
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
