"""Calls of training rows, read back from the tokens with loss as an engine reads an answer.

A template may write a call so that it can't be read back: `True` for true and for the text "True",
quotes within quotes. A model that learns such calls perfectly would be counted as wrong.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from unicodedata import normalize

from finery.rows import Message
from finery_transformers.engine import reader_of, special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_transformers.parsing import AnswerReader

LONGEST = 60
"""Characters of a value that a reason shows."""


class _Reading(NamedTuple):
    reader: "AnswerReader"
    special: frozenset[int]


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
    reader, special = _reading(tokenizer, arguments)
    if not reader.reads_calls:
        return ""
    raw = _decoded(tokenizer, answer, special=reader.needs_special_tokens)
    texts = [_decoded(tokenizer, [token], special=True) for token in set(answer) & special]
    offered = [dict(tool) for tool in tools]
    parsed = reader.read(raw, prompt=prompt, tools=offered, special=texts)
    if parsed.call_error is not None:
        return f"the calls can't be read back: {parsed.call_error}: {_shown(raw)}"
    own = [_call(call) for call in message["tool_calls"]]
    read = [_call(call) for call in parsed.tool_calls or ()]
    if [name for name, _ in own] != [name for name, _ in read]:
        names = ", ".join(name for name, _ in read) or "none"
        return f"the calls read back are {names}: {_shown(raw)}"
    pairs = zip(own, read, strict=True)
    return next((line for one, other in pairs for line in _differences(one, other)), "")


_READINGS: dict[tuple[str, str], _Reading] = {}


def _reading(tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any]) -> _Reading:
    """How answers are read, found out once for a template and its arguments."""
    key = (str(tokenizer.chat_template), repr(arguments))
    if key not in _READINGS:
        reader = reader_of(tokenizer, dict(arguments))
        _READINGS[key] = _Reading(reader, frozenset(special_ids(tokenizer)))
    return _READINGS[key]


def _decoded(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int], *, special: bool) -> str:
    decode: Any = tokenizer.decode
    skip = not special
    text = decode(list(tokens), skip_special_tokens=skip, clean_up_tokenization_spaces=False)
    return str(text)


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
