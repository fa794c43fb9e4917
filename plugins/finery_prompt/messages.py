"""Joins fixed messages and a conversation."""

from collections.abc import Sequence
from typing import Any

from finery.rows import Conversation, Message

EXAMPLES = "examples.jsonl"
"""The file with the turns of each row that a prompt may be shown, a row a line."""
SYSTEM_ROLES = ("system", "developer")  # OpenAI's newer models call it developer


def in_front(fixed: Sequence[Message], conversation: Sequence[Message]) -> Conversation:
    """`fixed` (at most one system message, then turns), followed by `conversation`.

    Chat templates accept one system message, which must be the first. If both have one, they are
    joined, the fixed text first; two equal texts become one. Changes nothing in place.
    """
    system, turns = _parted(fixed)
    own, rest = _parted(conversation)
    joined: Message | None = None
    for message in (*system, *own):
        joined = dict(message) if joined is None else _joined(joined, message)
    return [*([joined] if joined else []), *turns, *rest]


def without_system(conversation: Sequence[Message]) -> Conversation:
    """The conversation without its system messages."""
    return [message for message in conversation if message["role"] not in SYSTEM_ROLES]


def _parted(conversation: Sequence[Message]) -> tuple[Conversation, Conversation]:
    """(The leading system messages, the rest)."""
    first = 0
    while first < len(conversation) and conversation[first]["role"] in SYSTEM_ROLES:
        first += 1
    return list(conversation[:first]), list(conversation[first:])


def _joined(first: Message, second: Message) -> Message:
    before, after = first.get("content") or "", second.get("content") or ""
    if before == after or not after:
        return first
    if not before:
        return {**first, "content": after}
    if isinstance(before, str) and isinstance(after, str):
        return {**first, "content": f"{before}\n\n{after}"}
    return {**first, "content": [*_parts(before), *_parts(after)]}


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
