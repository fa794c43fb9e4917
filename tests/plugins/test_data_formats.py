"""What each format makes of a record's columns, and what it refuses."""

import json
from typing import Any

import pytest

from finery.rows.badrow import BadRow
from finery_data.sources.formats import FORMATS, detect, tools

CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}


def turn(role: str, content: str = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


USER, ANSWER, SYSTEM, TOOL = turn("user"), turn("assistant"), turn("system"), turn("tool")
CALLING = turn("assistant", "", tool_calls=[{"id": "c1", **CALL}])


def build(format: str, prompts_only: bool = False, **columns: Any) -> Any:
    return FORMATS[format](columns, prompts_only)


def refused(format: str, prompts_only: bool = False, **columns: Any) -> str:
    with pytest.raises(BadRow) as caught:
        build(format, prompts_only, **columns)
    return f"{caught.value.what} | {caught.value.fix}"


# alpaca


def test_alpaca_joins_instruction_and_input() -> None:
    row = build("alpaca", instruction="Add.", input="1+1", output="2", system="Be brief.")
    turns = [turn("system", "Be brief."), turn("user", "Add.\n\n1+1"), turn("assistant", "2")]
    assert row == {"messages": turns}


@pytest.mark.parametrize("nothing", ["", " \n", None])
def test_alpaca_without_input(nothing: str | None) -> None:
    row = build("alpaca", instruction="Hi.", input=nothing, output="2", system=nothing)
    assert row == {"messages": [turn("user", "Hi."), turn("assistant", "2")]}


def test_alpaca_history_comes_first() -> None:
    row = build("alpaca", instruction="c", output="d", history=[["a", "b"]])
    assert [m["content"] for m in row["messages"]] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"instruction": "a"}, "there is no column 'output' | one of: instruction"),
        ({"instruction": "a", "outptu": "b"}, "no column 'output' | did you mean 'outptu'?"),
        ({"instruction": "a", "output": 5}, "'output' is a number, not text"),
        ({"instruction": "", "input": " ", "output": "b"}, "'instruction' is empty"),
        ({"instruction": "a", "output": "b", "history": [["q"]]}, "'history' isn't a list"),
    ],
)
def test_alpaca_refuses(columns: dict[str, Any], what: str) -> None:
    assert what in refused("alpaca", **columns)


# messages


def test_messages_keep_tools_and_their_turns() -> None:
    result = turn("tool", "2", tool_call_id="c1", name="add")
    turns = [SYSTEM, USER, CALLING, result, ANSWER, USER, ANSWER]
    assert build("messages", messages=turns) == {"messages": turns}


def test_messages_are_put_in_one_shape() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    given = [turn("developer"), turn("user", name=None), turn("assistant", parts, tool_calls=[])]  # type: ignore[arg-type]
    row = build("messages", messages=given)
    assert row == {"messages": [SYSTEM, USER, turn("assistant", "ab")]}


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ("hello", "'messages' is text, not a list of turns"),
        ([{"rol": "user", "content": "a"}], "turn 1 has no 'role' | did you mean 'rol'?"),
        ([turn("user", " ")], "turn 1 (user) is empty"),
        (
            [USER, turn("assistant", "<think>\nHm")],
            "turn 2 (assistant) begins with thinking that isn't closed, so it has no answer",
        ),
        ([turn("user", [{"type": "image_url"}])], "content of type 'image_url'"),  # type: ignore[arg-type]
        ([ANSWER, USER], "the first turn is 'assistant', not 'system' or 'user'"),
        ([USER, USER, ANSWER], "turn 2 is 'user' after 'user' | join the two user turns"),
        ([USER, SYSTEM, ANSWER], "turn 2 is 'system' after 'user' | a system turn can only come"),
        ([USER, TOOL], "turn 2 is 'tool' after 'user'"),
        ([USER, ANSWER, USER], "the last turn is 'user', not 'assistant'"),
        ([USER, CALLING, USER, ANSWER], "the tool calls before it have no 'tool' turn"),
        ([USER, turn("assistant", tool_calls="x")], "'tool_calls' is text, not a list"),
    ],
)
def test_messages_refuses(turns: Any, what: str) -> None:
    assert what in refused("messages", messages=turns)


@pytest.mark.parametrize(("arguments", "what"), [("{", "invalid JSON"), ("[1]", "a list")])
def test_arguments_of_calls_are_json_objects(arguments: str, what: str) -> None:
    call = {"function": {"name": "add", "arguments": arguments}}
    assert what in refused("messages", messages=[USER, turn("assistant", "", tool_calls=[call])])


def test_messages_prompts_only() -> None:
    assert build("messages", True, messages=[SYSTEM, USER]) == {"messages": [SYSTEM, USER]}
    assert "prompts_only is set" in refused("messages", True, messages=[USER, ANSWER])
    assert "there is no user turn" in refused("messages", True, messages=[SYSTEM])


def test_thinking_gets_one_name() -> None:
    for name in ("reasoning_content", "reasoning", "thinking"):
        row = build("messages", messages=[USER, {**ANSWER, name: "so"}])
        assert row["messages"][1] == {**ANSWER, "reasoning_content": "so"}


def test_weights_are_kept() -> None:
    turns = [USER, {**ANSWER, "weight": 0}, USER, {**ANSWER, "weight": 1}]
    assert build("messages", messages=turns) == {"messages": turns}
    what = refused("messages", messages=[USER, {**ANSWER, "weight": 0.5}])
    assert "turn 2 has the weight 0.5, which isn't 0 or 1 | write `weight: 0`" in what


# sharegpt


def said(speaker: str, value: Any = "x", **more: Any) -> dict[str, Any]:
    return {"from": speaker, "value": value, **more}


def test_sharegpt_roles() -> None:
    turns = [said("system"), said("human"), said("gpt"), said("user"), said("ChatGPT")]
    row = build("sharegpt", conversations=turns)
    assert row == {"messages": [SYSTEM, USER, ANSWER, USER, ANSWER]}


@pytest.mark.parametrize("column", ["conversations", "conversation", "messages"])
def test_sharegpt_variants(column: str) -> None:
    turns = [turn("human"), {"role": "gpt", "value": "x", "markdown": None, "text": 1}]
    columns: dict[str, Any] = {column: turns}
    assert build("sharegpt", **columns) == {"messages": [USER, ANSWER]}


def test_sharegpt_function_calls_become_tool_calls() -> None:
    call = '{"name": "add", "arguments": {"a": 1}}'
    turns = [said("human"), said("function_call", f"[{call}, {call}]")]
    turns += [said("observation", "1"), said("observation", "2"), said("gpt")]
    made = build("sharegpt", conversations=turns)["messages"]
    assert [m["role"] for m in made] == ["user", "assistant", "tool", "tool", "assistant"]
    assert made[1]["tool_calls"] == [{"id": "call_0", **CALL}, {"id": "call_1", **CALL}]
    assert [m["tool_call_id"] for m in made[2:4]] == ["call_0", "call_1"]


@pytest.mark.parametrize(
    ("turns", "what"),
    [
        ([], "'conversations' is empty"),
        ([{"form": "human", "value": "x"}], "turn 1 has no 'from' | did you mean 'form'?"),
        ([said("humna")], "from the unknown role 'humna' | did you mean 'human'?"),
        ([said("gpt"), said("human")], "the first turn is 'assistant'"),
        ([said("human"), said("function_call", "{")], "holds invalid JSON"),
    ],
)
def test_sharegpt_refuses(turns: Any, what: str) -> None:
    assert what in refused("sharegpt", conversations=turns)


# completion


def test_completion_as_text_or_messages() -> None:
    assert build("completion", prompt="a", completion=" b") == {"prompt": "a", "completion": " b"}
    both: dict[str, Any] = {"prompt": [SYSTEM, USER], "completion": [ANSWER]}
    assert build("completion", **both) == both
    assert build("completion", prompt="x", completion=[ANSWER])["prompt"] == [USER]
    assert build("completion", prompt=[USER], completion="x")["completion"] == [ANSWER]


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"prompt": "a"}, "there is no column 'completion'"),
        ({"prompt": "a", "completion": 4}, "'completion' is a number, not text"),
        ({"prompt": [USER, ANSWER], "completion": "a"}, "the prompt ends with 'assistant'"),
        ({"prompt": [USER], "completion": [USER]}, "'completion' starts with 'user'"),
        ({"prompt": "a", "completion": "b", "label": True}, "these are ratings"),
    ],
)
def test_completion_refuses(columns: dict[str, Any], what: str) -> None:
    assert what in refused("completion", **columns)


def test_completion_keeps_the_thinking_beside_it() -> None:
    row = build("completion", prompt="a", completion="b", reasoning_content="hm")
    answer = turn("assistant", "b", reasoning_content="hm")
    assert row == {"prompt": [turn("user", "a")], "completion": [answer]}
    assert build("completion", prompt="a", completion="b", reasoning_content=None) == {
        "prompt": "a", "completion": "b"
    }  # fmt: skip


# rating


@pytest.mark.parametrize(
    ("given", "label"),
    [(True, "true"), ("True", "true"), (" false", "false"), ("1", "true"), (0, "false"),
     (1.0, "true")],
)  # fmt: skip
def test_rating_in_every_way_to_write_it(given: Any, label: str) -> None:
    row = build("rating", prompt="a", completion="b", label=given)
    assert row == {"prompt": "a", "completion": "b", "label": label}


# preference


def prefer(chosen: Any, rejected: Any, **prompt: Any) -> Any:
    return build("preference", chosen=chosen, rejected=rejected, **prompt)


GOOD, BAD = turn("assistant", "good"), turn("assistant", "bad")
PAIR: dict[str, Any] = {"prompt": "a", "chosen": "b", "rejected": "c"}


def test_preference_with_prompt() -> None:
    assert prefer("b", "c", prompt="a") == {"prompt": "a", "chosen": "b", "rejected": "c"}
    row = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
    assert prefer([GOOD], [BAD], prompt=[USER]) == row
    assert prefer([GOOD], [BAD], prompt="x") == row
    assert prefer("good", "bad", prompt=[USER]) == row


@pytest.mark.parametrize("prompt", [{}, {"prompt": None}, {"prompt": "x"}, {"prompt": [USER]}])
def test_preference_prompt_is_taken_out_of_the_answers(prompt: dict[str, Any]) -> None:
    row = prefer([SYSTEM, USER, GOOD], [SYSTEM, USER, BAD], **prompt)
    assert row == {"prompt": [SYSTEM, USER], "chosen": [GOOD], "rejected": [BAD]}


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"prompt": "a", "chosen": "b"}, "there is no column 'rejected'"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, "'rejected' is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same | remove the row"),
        ({"chosen": "a b", "rejected": "c d"}, "start differently"),
        ({"chosen": "a b ", "rejected": "a b c"}, "is the beginning of the other"),
        ({"chosen": [USER, GOOD], "rejected": [SYSTEM, BAD]}, "no prompt in common"),
        ({"prompt": "y", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "a prompt that differs"),
        ({**PAIR, "margin": "large"}, "'margin' is 'large', not a finite number | write a number"),
    ],
)
def test_preference_refuses(columns: dict[str, Any], what: str) -> None:
    assert what in refused("preference", **columns)


@pytest.mark.parametrize("margin", [None, "", 2, 0.5, "-1.5"])
def test_preference_with_margin(margin: Any) -> None:
    assert build("preference", False, **PAIR, margin=margin) == PAIR


# tools, label, detection


def test_tools_are_put_in_one_shape() -> None:
    function = {"name": "add", "parameters": {}}
    whole = {"type": "function", "function": function}
    assert tools({"tools": [whole]}) == {"tools": [whole]}
    assert tools({"tools": json.dumps([function])}) == {"tools": [whole]}
    assert tools({}) == tools({"tools": ""}) == tools({"tools": []}) == tools({"tools": "[]"}) == {}


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        ({"instruction": "", "output": "", "id": ""}, ["alpaca"]),
        ({"conversations": []}, ["sharegpt"]),
        ({"messages": [turn("user")]}, ["messages"]),
        ({"prompt": "", "completion": ""}, ["completion"]),
        ({"prompt": "", "completion": "", "label": "True"}, ["rating"]),
        ({"prompt": "", "completion": "", "label": "0"}, ["completion"]),
        ({"chosen": "", "rejected": "", "prompt": ""}, ["preference"]),
        ({"chosen": "", "rejected": "", "messages": []}, ["messages", "preference"]),
        ({"text": "", "category": ""}, []),
    ],
)
def test_detection_by_columns(columns: dict[str, Any], found: list[str]) -> None:
    assert detect(columns, prompts_only=False) == found


def test_detection_of_prompts() -> None:
    assert detect({"instruction": ""}, prompts_only=True) == ["alpaca"]
    assert detect({"prompt": ""}, prompts_only=True) == ["completion"]
    assert detect({"prompt": "", "label": 1}, prompts_only=True) == ["completion"]


def test_a_question_without_an_answer_is_refused_with_what_to_write() -> None:
    """Not with prompts_only, which would refuse the other rows of the file."""
    turns = [{"role": "user", "content": "Who wrote the handbook?"}]
    with pytest.raises(BadRow) as error:
        build("messages", messages=turns, answerable=False)
    assert "`answerable: false`, but no answer" in error.value.what
    assert "The documents don't say." in str(error.value.fix)
    assert build("messages", True, messages=turns, answerable=False) == {"messages": turns}
