"""How the turns of a row are read and written, in each format that a row may have."""

import json

import pytest

from finery.rows import Conversation, Message, Row, Turns, example_request, split_turns, with_turns
from finery.rows.row import EXAMPLE_CHARACTERS


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


ASK, REPLY, MORE = turn("user", "Hi"), turn("assistant", "Hello."), turn("user", "More?")
YES, NO = turn("assistant", "Yes."), turn("assistant", "No.")
CALL: Message = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
RESULT = turn("tool", "3")
Read = tuple[Conversation, Conversation, Conversation | None, list[int]]
"""Prompt, answer, rejected answer, and the places of the turns that can be learned."""
READ: list[tuple[Row, Read]] = [
    ({"messages": [ASK, REPLY]}, ([ASK], [REPLY], None, [1])),
    ({"messages": [ASK, REPLY, MORE, YES]}, ([ASK, REPLY, MORE], [YES], None, [1, 3])),
    ({"messages": [ASK, CALL, RESULT, YES]}, ([ASK, CALL, RESULT], [YES], None, [1, 3])),
    ({"messages": [ASK, REPLY, MORE]}, ([ASK, REPLY, MORE], [], None, [1])),
    ({"messages": []}, ([], [], None, [])),
    ({"prompt": "Hi", "completion": "Hello."}, ([ASK], [REPLY], None, [1])),
    ({"prompt": "Hi", "completion": None}, ([ASK], [], None, [])),
    ({"prompt": [ASK, REPLY, MORE], "completion": [YES]},
     ([ASK, REPLY, MORE], [YES], None, [3])),
    ({"prompt": [ASK], "completion": [CALL, RESULT, YES]},
     ([ASK], [CALL, RESULT, YES], None, [1, 3])),
    ({"prompt": "Hi"}, ([ASK], [], None, [])),
    ({"prompt": "More?", "chosen": "Yes.", "rejected": "No."}, ([MORE], [YES], [NO], [1])),
    ({"prompt": [ASK, REPLY, MORE], "chosen": [YES], "rejected": [NO]},
     ([ASK, REPLY, MORE], [YES], [NO], [3])),
    ({"text": "a document"}, ([], [], None, [])),
]  # fmt: skip


@pytest.mark.parametrize(("row", "read"), READ)
def test_every_format_is_read_as_the_same_turns(row: Row, read: Read) -> None:
    turns = Turns.of(row)
    assert (turns.prompt, turns.answer, turns.rejected, turns.replies) == read
    assert split_turns(row) == (turns.prompt, turns.answer)
    assert turns.conversation == [*turns.prompt, *turns.answer]


@pytest.mark.parametrize("row", [row for row, _ in READ])
def test_turns_are_written_in_the_format_of_their_row(row: Row) -> None:
    assert with_turns(row, Turns.of(row)) == row


def test_text_becomes_turns_where_a_column_has_several() -> None:
    row = {"prompt": "Hi", "completion": "Hello.", "label": "x"}
    turns = Turns.of(row)
    longer = turns._replace(prompt=[turn("system", "Be brief."), *turns.prompt])
    written = {"prompt": longer.prompt, "completion": [REPLY], "label": "x"}
    assert with_turns(row, longer) == written
    assert with_turns(row, turns._replace(prompt=[MORE])) == {**row, "prompt": "More?"}


def test_an_example_is_the_first_question_that_is_short() -> None:
    system, tool = turn("system", "Be brief."), {"function": {"name": "f", "a": None}}
    long = [{"prompt": "x" * (EXAMPLE_CHARACTERS + 9)}, {"prompt": "y" * (EXAMPLE_CHARACTERS + 8)}]
    found: Row = {"messages": [system, ASK, REPLY, MORE], "tools": [tool]}
    assert json.loads(example_request([*long, found, {"prompt": "Hi?"}])) == {
        "messages": [system, ASK], "tools": [tool]
    }  # fmt: skip
    (question,) = json.loads(example_request(long))["messages"]
    assert question["content"] == f"{'y' * (EXAMPLE_CHARACTERS - 1)}…"
    assert example_request([{"text": "a"}, {"messages": [{"role": "user", "content": [{}]}]}]) == ""
