"""Rows: what a line of a `Dataset` may look like, and the few views of it that steps share."""

from typing import Any

import msgspec
from blake3 import blake3

Row = dict[str, Any]
Message = dict[str, Any]
Conversation = list[Message]

NOT_CONTENT = frozenset({"id", "parents"})
"""Columns that say where a row comes from, not what it says."""


def row_id(row: Row) -> str:
    """A 16-digit hex hash of the row's content (all columns but `id` and `parents`)."""
    content = {k: v for k, v in row.items() if k not in NOT_CONTENT}
    return blake3(msgspec.json.encode(content, order="deterministic")).hexdigest()[:16]


def split_turns(row: Row) -> tuple[Conversation, Conversation]:
    """(prompt, completion) of a row, both as messages.

    `messages` are split before the last assistant turn; `prompt` and `completion` may be text
    or messages. A row without an answer gives an empty completion. For preferences the
    completion is `chosen`.
    """
    if "messages" in row:
        messages = row["messages"]
        if messages and messages[-1]["role"] == "assistant":
            return messages[:-1], messages[-1:]
        return messages, []
    completion = row.get("completion", row.get("chosen", []))
    return _as_messages(row.get("prompt", []), "user"), _as_messages(completion, "assistant")


def answer_text(row: Row) -> str:
    """The text of the row's completion; empty if there is none."""
    return "".join(str(m.get("content") or "") for m in split_turns(row)[1])


def snippet(row: Row, characters: int = 70) -> str:
    """The beginning of what a row says, in a line; of conversations not their system prompts."""
    columns = [v for k, v in row.items() if k not in NOT_CONTENT]
    turns = row.get("messages") or [part for value in columns for part in _parts(value)]
    spoken = [part for part in turns if not _is_system(part)] or turns
    texts = [(p.get("content") or p) if isinstance(p, dict) else p for p in spoken]
    text = " → ".join(str(part) for part in texts if part)[: characters * 4]
    line = " ".join(text.split())
    return f"{line[: characters - 1]}…" if len(line) > characters else line


def _parts(value: Any) -> list[Any]:
    """The turns of a conversation; anything else as the only element of a list."""
    is_turns = isinstance(value, list) and all(isinstance(turn, dict) for turn in value)
    return value if is_turns else [value]


def _is_system(part: Any) -> bool:
    return isinstance(part, dict) and part.get("role") == "system"


def _as_messages(value: Any, role: str) -> Conversation:
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value)
