"""The rows of the matrix: one answer, five turns, a preference, prompts with tools."""

from typing import Any

from finery.rows import Conversation, Message, Row

THOUGHT = "They ask about an order, so I look at its state."
ANSWERS = (
    "It is on its way.",
    "On Monday.",
    "Yes, until Friday.",
    "By mail: help@shop.example",
    "Bye.",
)


def question(number: int = 0) -> Message:
    """A user's turn, different for each number."""
    return {"role": "user", "content": f"Where's order {17 + number} — it is {number} weeks late?"}


def answer(number: int = 0, *, thinks: bool = False) -> Message:
    """An assistant's turn, with thinking if it thinks."""
    thinking = {"reasoning_content": f"{THOUGHT} Turn {number}."} if thinks else {}
    return {"role": "assistant", "content": ANSWERS[number % len(ANSWERS)], **thinking}


def turns(number: int, *, thinks: bool = False) -> Row:
    """A row of so many turns of user and assistant."""
    pairs = [(question(i), answer(i, thinks=thinks)) for i in range(number)]
    messages = [message for pair in pairs for message in pair]
    return {"id": f"{number} turns", "messages": messages}


def preference(number: int = 0, *, thinks: bool = False) -> Row:
    """A row with a chosen and a rejected answer."""
    both = {"chosen": [answer(0, thinks=thinks)], "rejected": [answer(1, thinks=thinks)]}
    return {"id": f"preference {number}", "prompt": [question(number)], **both}


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "find_order",
            "description": "Find an order by its number.",
            "parameters": {
                "type": "object",
                "properties": {
                    "number": {"type": "integer", "description": "The order's number."},
                    "mail": {"type": "string", "description": "The customer's address."},
                },
                "required": ["number"],
            },
        },
    }
]
ARGUMENTS = '{"number": 17, "mail": "a.b@shop.example"}'
CALL: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call00001",  # Mistral's templates want nine characters
            "type": "function",
            "function": {"name": "find_order", "arguments": ARGUMENTS},
        }
    ],
}
STATE: Message = {
    "role": "tool",
    "tool_call_id": "call00001",
    "name": "find_order",
    "content": '{"state": "sent"}',
}


def called(*, thinks: bool = False) -> Row:
    """A row with a call, the tool's answer, and an assistant's answer."""
    thinking = {"reasoning_content": THOUGHT} if thinks else {}
    messages = [question(), {**CALL, **thinking}, STATE, answer(thinks=thinks)]
    return {"id": "called", "messages": messages, "tools": TOOLS}


PROMPTS: dict[str, tuple[Conversation, list[dict[str, Any]]]] = {
    "a question": ([question()], []),
    "a system turn": ([{"role": "system", "content": "Be brief."}, question()], []),
    "several turns": ([question(), answer(), question(1), answer(1), question(2)], []),
    "earlier thinking": ([question(), answer(thinks=True), question(1)], []),
    "tools": ([question()], TOOLS),
    "a tool's answer": ([question(), CALL, STATE], TOOLS),
    "an earlier call": ([question(), CALL, STATE, answer(), question(1)], TOOLS),
}
"""Prompts to compare with llama.cpp's: messages and tools, by name."""
