"""The turns of a conversation: how they are named, and those that a model adds."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from finery import Completion
from finery.rows import TURN_COLUMNS, Conversation, Message, Row, Turns, split_turns


def place_of(row: Row, number: int | None = None) -> str:
    """The name of a turn in messages: the row's id and the turn's number from 1.

    number: None means that of the judged turn.
    """
    turn = f", turn {number or len(split_turns(row)[0]) + 1}"
    return f"{row['id']}".removesuffix(turn) + turn  # `Turn.as_row` has it in the id


class Turn(NamedTuple):
    """An assistant turn of a row that is judged.

    place: in the conversation, from 0. number: among the judged turns of the row, from 1.
    """

    row: Row
    conversation: Conversation
    place: int
    number: int
    is_last: bool

    @property
    def message(self) -> Message:
        """The turn itself."""
        return self.conversation[self.place]

    def as_row(self) -> Row:
        """The turn as a separate row: the conversation up to it.

        It has the `label` of the last turn. The original row is among the `parents`, so that its
        turns count as related rows in intervals and tests.
        """
        row_fields = {k: v for k, v in self.row.items() if k not in TURN_COLUMNS}
        if not self.is_last:
            row_fields.pop("label", None)
        name = f"{self.row['id']}, turn {self.place + 1}"
        parents = [*(self.row.get("parents") or ()), self.row["id"]]
        turns = self.conversation[: self.place + 1]
        return {**row_fields, "id": name, "parents": parents, "messages": turns}


def turns_of(row: Row, which: str) -> list[Turn]:
    """The assistant turns of a row that are judged.

    Of a row with a prompt, those of its completion. Turns with `weight: 0` are not to be imitated.
    which: `all`, `answers` (turns without tool calls) or `calls`.
    """
    turns = Turns.of(row)
    conversation = turns.conversation
    places = [place for place in turns.replies if not _why_not(conversation[place], which)]
    return [
        Turn(row, conversation, place, number, place == len(conversation) - 1)
        for number, place in enumerate(places, 1)
    ]


def unjudged_turns(row: Row, which: str) -> Counter[str]:
    """How many assistant turns of a row are left out, by what they have in common."""
    turns = Turns.of(row)
    conversation = turns.conversation
    reasons = (_why_not(conversation[place], which) for place in turns.replies)
    return Counter(filter(None, reasons))


def _why_not(turn: Message, which: str) -> str:
    """Why a turn isn't judged; empty if it is."""
    if turn.get("weight", 1) == 0:
        return "turns with weight: 0"
    has_calls = bool(turn.get("tool_calls"))
    if which == "calls" and not has_calls:
        return "turns without calls (turns: calls)"
    if which == "answers" and has_calls:
        return "turns with calls (turns: answers)"
    return ""


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
    if isinstance(arguments, str):
        try:
            arguments = arguments if isinstance(json.loads(arguments), dict) else "{}"
        except (ValueError, RecursionError):
            arguments = "{}"
    named = {"name": name if isinstance(name, str) else "", "arguments": arguments or "{}"}
    return {"id": call.get("id") or number, "type": "function", "function": named}


def tool_turns(turn: Message, contents: Sequence[str]) -> Conversation:
    """The answers to the calls of a turn, in their order; none if it has no calls."""
    return [
        {
            "role": "tool",
            "tool_call_id": call["id"],
            "name": call["function"]["name"],
            "content": content,
        }
        for call, content in zip(turn.get("tool_calls", []), contents, strict=True)
    ]
