"""What the rows of a training use of a chat template, as a trained model's `meta` says it."""

from collections.abc import Iterable, Mapping
from typing import Any

from finery import Model
from finery.rows import Conversation, Message, Row, split_turns
from finery_transformers.chat import without_think_tags

PROMPTS = "prompts"
"""The entry of `meta`. `tools`, `thinking`, `switched`: whether a row used it; the last means that
thinking was switched off in the prompt of a row without it. `date`: the day that the template wrote
(`2026-11-26`), absent if it writes none."""


def facts_of(model: Model) -> Mapping[str, Any] | None:
    """What the training rows of a model used; None if the model doesn't say."""
    facts = model.meta.get(PROMPTS)
    return facts if isinstance(facts, Mapping) else None


def facts_of_rows(
    rows: Iterable[Row], before: Model, *, switch: bool, date: str = ""
) -> dict[str, Any]:
    """What rows use, and what those used that `before`, the model under training, has learned.

    switch: whether thinking is switched off in the prompts of rows without it.
    """
    earlier = facts_of(before) or {}
    used = {name: bool(earlier.get(name)) for name in ("tools", "thinking", "switched")}
    for row in rows:
        messages = _messages(row)
        thinks = any(map(_thinks, messages))
        used["tools"] |= bool(row.get("tools")) or any(map(_calls, messages))
        used["thinking"] |= thinks
        used["switched"] |= switch and not thinks
    return used | ({"date": date} if date else {})


def _messages(row: Row) -> Conversation:
    """All messages of a row, of preferences also those of the rejected answer."""
    prompt, completion = split_turns(row)
    rejected = row.get("rejected")
    return [*prompt, *completion, *(rejected if isinstance(rejected, list) else [])]


def _calls(message: Message) -> bool:
    return message.get("role") == "tool" or bool(message.get("tool_calls"))


def _thinks(message: Message) -> bool:
    return bool(str(without_think_tags(message).get("reasoning_content") or "").strip())
