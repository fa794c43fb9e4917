"""The turns of a conversation: how they are named, and those that a model adds."""

import json
from collections.abc import Sequence
from typing import Any

from finery import Completion
from finery.rows import Conversation, Message, Row, split_turns


def place_of(row: Row) -> str:
    """How messages name the turn of a row that is judged: its id and its number from 1."""
    return f"{row['id']}, turn {len(split_turns(row)[0]) + 1}"


def assistant_turn(answer: Completion, number: int) -> Message:
    """An answer as a turn of the conversation that goes on.

    number: of the turn, for the ids of calls that have none.
    """
    turn: Message = {"role": "assistant", "content": answer.text}
    if answer.reasoning:
        turn["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        calls = enumerate(answer.tool_calls, 1)
        turn["tool_calls"] = [_callable(call, f"call_{number}_{i}") for i, call in calls]
    return turn


def _callable(call: dict[str, Any], number: str) -> dict[str, Any]:
    """A call that every chat template can write: with an id, and with arguments that are JSON."""
    function = call.get("function") or {}
    name, arguments = function.get("name"), function.get("arguments")
    if isinstance(arguments, str) and not _is_object(arguments):
        arguments = "{}"
    named = {"name": name if isinstance(name, str) else "", "arguments": arguments or "{}"}
    return {"id": call.get("id") or number, "type": "function", "function": named}


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def tool_turns(turn: Message, contents: Sequence[str]) -> Conversation:
    """The answers to the calls of a turn, in their order."""
    return [
        {
            "role": "tool",
            "tool_call_id": call["id"],
            "name": call["function"]["name"],
            "content": content,
        }
        for call, content in zip(turn["tool_calls"], contents, strict=True)
    ]
