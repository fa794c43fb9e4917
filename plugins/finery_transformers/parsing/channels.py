"""Answers that are a sequence of channels rather than text, as gpt-oss writes them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from finery_transformers.parsing.calls import (
    BadCall,
    Calls,
    Tools,
    as_call,
    in_openai_shape,
    without,
)
from finery_transformers.parsing.parsed import Parsed

CHANNELS = "<|channel|>analysis"
"""Written by templates whose answers are such a sequence."""


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


def channel_calls(text: str, _tools: Tools) -> Calls:
    """The calls of an answer in channels. Raises `BadCall`."""
    parts = _parts(text)
    calls = [
        as_call({"name": part.recipient.removeprefix("functions."), "arguments": part.content})
        for part in parts
        if part.recipient
    ]
    others = (p.content.strip() for p in parts if not p.recipient and p.channel != "analysis")
    return Calls("\n".join(filter(None, others)), calls)


def in_channels(raw: str, prompt: str, tools: Tools | None, special: Sequence[str]) -> Parsed:
    """The parts of an answer that is a sequence of channels."""
    parts = _parts(raw, prompt)
    thoughts = [p.content.strip() for p in parts if p.channel == "analysis" and not p.recipient]
    reasoning = without("\n".join(filter(None, thoughts)) or None, special)
    if not tools:
        texts = [p.content for p in parts if p.channel != "analysis" or p.recipient]
        return Parsed(str(without("\n".join(texts), special)), reasoning)
    try:
        text, calls = channel_calls(_begun(raw, prompt), tools)
    except BadCall as error:
        return Parsed(raw, reasoning, call_error=str(error))
    return Parsed(str(without(text, special)), reasoning, in_openai_shape(calls))
