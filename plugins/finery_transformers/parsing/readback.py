"""Calls of training rows, read back from the tokens with loss as an engine reads an answer.

A template may write a call so that it can't be read back: `True` for true and for the text "True",
quotes within quotes. A model that learns such calls perfectly would be counted as wrong.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

from finery.rows import Message
from finery_transformers.parsing.tokens import TokenReader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONGEST = 60
"""Characters of a value that a reason shows."""


def misread(
    tokenizer: "PreTrainedTokenizerBase",
    arguments: Mapping[str, Any],
    prompt: str,
    answer: Sequence[int],
    message: Message,
    tools: Sequence[Mapping[str, Any]],
) -> str:
    """How the calls of a message differ from those that are read from its tokens; empty if not.

    arguments: other arguments of the chat template. prompt: its text. answer: the tokens up to the
    end of the turn. Nothing differs where no reader is known for what the template writes.
    """
    answers = _reader(tokenizer, arguments)
    if not answers.reader.reads_calls:
        return ""
    raw = answers.text(answer)
    parsed = answers.parts(raw, answer, prompt=prompt, tools=[dict(tool) for tool in tools])
    if parsed.call_error is not None:
        return f"the calls can't be read back: {parsed.call_error}: {_shown(raw)}"
    own = [_call(call) for call in message["tool_calls"]]
    read = [_call(call) for call in parsed.tool_calls or ()]
    if [name for name, _ in own] != [name for name, _ in read]:
        names = ", ".join(name for name, _ in read) or "none"
        return f"the calls read back are {names}: {_shown(raw)}"
    pairs = zip(own, read, strict=True)
    return next((line for one, other in pairs for line in _differences(one, other)), "")


_READERS: dict[tuple[str, str], TokenReader] = {}


def _reader(tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any]) -> TokenReader:
    """Reads answers; what it finds out about a template and its arguments is kept."""
    key = (str(tokenizer.chat_template), repr(arguments))
    if key not in _READERS:
        _READERS[key] = TokenReader(tokenizer, arguments)
    return _READERS[key]


def _call(call: Mapping[str, Any]) -> tuple[str, Any]:
    """(name, arguments) of a call in OpenAI's shape."""
    arguments = call["function"].get("arguments") or {}
    decoded = json.loads(arguments) if isinstance(arguments, str) else arguments
    return str(call["function"].get("name")), decoded or {}


def _differences(own: tuple[str, Any], read: tuple[str, Any]) -> Iterator[str]:
    """The arguments that are read back otherwise, in words."""
    name, arguments = own
    for key in [*arguments, *(key for key in read[1] if key not in arguments)]:
        what = f"the argument {key} of {name}"
        if key not in read[1]:
            yield f"{what} isn't read back"
        elif key not in arguments:
            yield f"{what} is read back, but the call doesn't have it"
        elif not _is_same(arguments[key], read[1][key]):
            texts = [_shown(_json(value)) for value in (read[1][key], arguments[key])]
            yield f"{what} is read back as {texts[0]} rather than {texts[1]}"


def _is_same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; texts may differ as tokenizers normalise them (NFC)."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    if isinstance(one, str) and isinstance(other, str):
        return normalize("NFC", one) == normalize("NFC", other)
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
