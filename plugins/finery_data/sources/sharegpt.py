"""The ShareGPT format: `conversations` of `{from, value}` turns, in the variants there are."""

from typing import Any

import msgspec

from finery.advanced import did_you_mean
from finery.rows import Conversation, Message
from finery.rows.badrow import BadRow, kind_of
from finery.rows.chat.turns import THINKING_KEYS, as_message, as_turns, decode_column

LISTS = ("conversations", "conversation", "messages")
KNOWN = ("tool_calls", "tool_call_id", "name", "weight", *THINKING_KEYS)
"""Keys of turns that are kept besides role and text."""
ROLE_OF = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "function_call": "function_call",
    "tool_call": "function_call",
}


def turns_of(columns: dict[str, Any]) -> Conversation:
    """The conversation of a row, in the shape of the OpenAI Chat Completions API.

    Turns may also have the keys `role` and `content`. `function_call` turns, whose value is
    JSON `{name, arguments}` or a list of them, become one assistant turn with `tool_calls`; the
    `observation` turns that follow answer them in order.
    """
    column = next((name for name in LISTS if name in columns), None)
    if column is None:
        raise BadRow("there is no column 'conversations'", did_you_mean("conversations", columns))
    turns = as_turns(columns[column], column)
    messages: Conversation = []
    open_calls: list[str] = []
    for number, turn in enumerate(turns, 1):
        role, value, rest = _parts(turn, number)
        if role == "function_call":
            _add_calls(messages, open_calls, value, number, rest)
            continue
        message: Message = {**rest, "role": role, "content": value}
        if role != "tool":
            open_calls.clear()
        elif open_calls:
            message.setdefault("tool_call_id", open_calls.pop(0))
        messages.append(as_message(message, number))
    system = columns.get("system")
    if system is None or (isinstance(system, str) and not system.strip()):
        return messages
    if not isinstance(system, str):
        raise BadRow(f"'system' is {kind_of(system)}, not text")
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages]
    if messages[0]["content"] != system:
        raise BadRow("the column 'system' and the first turn are different system prompts")
    return messages


def _parts(turn: Any, number: int) -> tuple[str, Any, dict[str, Any]]:
    """(role, value, other keys) of a turn."""
    if not isinstance(turn, dict):
        raise BadRow(f"turn {number} is {kind_of(turn)}, not an object with 'from' and 'value'")
    rest = {k: v for k, v in turn.items() if v is not None}
    speaker = rest.pop("from", None) or rest.pop("role", None)
    if speaker is None:
        raise BadRow(f"turn {number} has no 'from'", did_you_mean("from", map(str, turn)))
    value = rest.pop("value", None)
    if value is None:
        value = rest.pop("content", "")
    role = ROLE_OF.get(str(speaker).lower())
    if role is None:
        what = f"turn {number} is from the unknown role '{speaker}'"
        raise BadRow(what, did_you_mean(str(speaker), ROLE_OF))
    # Only what the Chat Completions API knows; exports of chat sites carry `markdown`, `text`, ….
    return role, value, {k: rest[k] for k in KNOWN if k in rest}


def _add_calls(
    messages: Conversation,
    open_calls: list[str],
    value: Any,
    number: int,
    rest: dict[str, Any],
) -> None:
    """Add calls to the assistant's turn before them, or as a turn. rest: other keys of the turn."""
    parsed = (
        decode_column(value, f"turn {number} (function_call)") if isinstance(value, str) else value
    )
    calls = parsed if isinstance(parsed, list) else [parsed]
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    turn = messages[-1] = {**messages[-1], **rest}
    turn.setdefault("tool_calls", [])
    count = sum(len(m.get("tool_calls", [])) for m in messages)
    for index, call in enumerate(calls):
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            raise BadRow(
                f"turn {number} (function_call) is not a call",
                'its value is JSON: {"name": …, "arguments": {…}}',
            )
        arguments = call.get("arguments", {})
        if not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        function = {"name": call["name"], "arguments": arguments}
        name = f"call_{count + index}"
        turn["tool_calls"].append({"id": name, "type": "function", "function": function})
        open_calls.append(name)
    messages[-1] = as_message(turn, number)
