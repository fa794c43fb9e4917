"""Messages to tokens, in one place, so that training and inference use the same prompts.

The chat template is Jinja from the model's own files, run in transformers' sandbox.
"""

import json
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import DataError, FineryError, shown
from finery.rows import Conversation
from finery.rows.templates.foreign import written

if TYPE_CHECKING:
    from jinja2 import TemplateSyntaxError
    from transformers import PreTrainedTokenizerBase

TEMPLATE_FILE = "chat_template.jinja"
_MARK = "finery marks the answer"


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
    return _render(tokenizer, prompt, tools, {**(arguments or {}), "add_generation_prompt": True})


def row_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: Conversation,
    completion: Conversation,
    ends: Set[int],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> tuple[list[int], list[int]]:
    """Token ids of a prompt, and of the same with its completion, as the template writes each.

    The latter is cut after the completion's last token of `ends`. Templates write more after the
    end of a turn (a line break), which is never generated, since generation stops there.
    """
    asked = prompt_tokens(tokenizer, prompt, tools=tools, arguments=arguments)
    whole = _render(tokenizer, [*prompt, *completion], tools, arguments or {})
    last = next((i for i in range(len(whole) - 1, len(asked) - 1, -1) if whole[i] in ends), None)
    return asked, whole if last is None else whole[: last + 1]


def end_of_turn(
    tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any] | None = None
) -> set[int]:
    """Token ids that end an answer: the template's end-of-turn token and the tokenizer's EOS.

    The end-of-turn token is the first special token after an assistant's message.
    """
    ends = {t for t in [tokenizer.eos_token_id] if isinstance(t, int)}
    question = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    text = _text(tokenizer, question, None, arguments or {}).rpartition(_MARK)[2]
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    after = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    return ends | set([t for t in after if t in special][:1])


def unasked_header(
    tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any] | None = None
) -> str:
    """The text that opens an answer but is missing from prompts; empty if there is none.

    A template without a generation prompt ignores `add_generation_prompt`. That is fine if it
    writes nothing before answers, like Mistral's.
    """
    question = [{"role": "user", "content": "?"}]
    asked = {**(arguments or {}), "add_generation_prompt": True}
    bare = _text(tokenizer, question, None, arguments or {})
    if _text(tokenizer, question, None, asked) != bare:
        return ""
    answered = [*question, {"role": "assistant", "content": _MARK}]
    whole = _text(tokenizer, answered, None, arguments or {})
    before = whole.removeprefix(bare).partition(_MARK)[0]
    return before if whole.startswith(bare) and before.strip() else ""


def _render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Conversation,
    tools: Sequence[Mapping[str, Any]] | None,
    arguments: Mapping[str, Any],
) -> list[int]:
    text = _text(tokenizer, messages, tools, arguments)
    # The template writes the special tokens itself.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _called(
    tokenizer: "PreTrainedTokenizerBase", messages: Conversation, asked: dict[str, Any]
) -> str:
    """The template's output: the same for arguments of tool calls as an object and as its JSON.

    Most templates expect objects, as servers pass them. The few that join the arguments with text
    get JSON.
    """
    objects = with_arguments(messages, as_object)
    try:
        return _written(tokenizer, objects, asked)
    except TypeError:
        if not any(message.get("tool_calls") for message in messages):
            raise
        return _written(tokenizer, with_arguments(messages, as_text), asked)


def _written(
    tokenizer: "PreTrainedTokenizerBase", messages: Conversation, asked: dict[str, Any]
) -> str:
    return written(
        lambda: tokenizer.apply_chat_template(messages, tokenize=False, **asked), messages
    )


def with_arguments(messages: Conversation, change: Callable[[Any], Any]) -> Conversation:
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


def as_object(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments or "{}")
    except ValueError:  # the template gets it as the row has it
        return arguments


def as_text(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def _text(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Conversation,
    tools: Sequence[Mapping[str, Any]] | None,
    arguments: Mapping[str, Any],
) -> str:
    from jinja2 import TemplateSyntaxError

    asked: dict[str, Any] = {"tools": list(tools) if tools else None, **arguments}
    try:
        return _called(tokenizer, messages, asked)
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
