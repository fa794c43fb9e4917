"""Rows with several assistant turns: which are learned, how rows are split, thinking, tools."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import CHATML, SPECIAL, tiny_tokenizer

from finery import DataError, FineryError, Model, StepError
from finery.rows import Row, with_id
from finery.testing import TestJob, dataset
from finery_trl.preflight import prove
from finery_trl.rows.example import NO_LOSS, Example, rows_in
from finery_trl.rows.tokens import ANSWERS, Reading, Tokens, examples_of
from finery_trl.rows.turns import Learn
from finery_trl.steps import Dpo, Sft
from finery_trl.train.run import read as read_rows

OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n"
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>"
    "\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    + OPENS
    + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""A hybrid template that drops earlier thinking."""
KEEPS = THINKS.replace(" and loop.last", "")
"""The same with earlier thinking."""
CALLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}" + OPENS + "{% endif %}"
)
TOOL = {
    "type": "function",
    "function": {
        "name": "track",
        "description": "Where a parcel is.",
        "parameters": {"type": "object", "properties": {"number": {"type": "string"}}},
    },
}


def turn(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def talk(turns: int = 5, **more: Any) -> Row:
    """A conversation of this many assistant turns, which have the other keys."""
    messages = []
    for i in range(turns):
        messages += [turn("user", f"where is card {i}"), turn("assistant", f"late {i}", **more)]
    return with_id({"messages": messages})


def called(**changes: Any) -> Row:
    """A conversation with a tool call; changes: message index as `m1` → its new keys."""
    call = {
        "id": "call_0",
        "type": "function",
        "function": {"name": "track", "arguments": {"number": "P1"}},
    }
    messages = [
        turn("user", "where is P1"),
        turn("assistant", "", tool_calls=[call]),
        turn("tool", "Kassel", tool_call_id="call_0"),
        turn("assistant", "It is late."),
    ]
    for name, keys in changes.items():
        messages[int(name[1:])] |= keys
    return with_id({"messages": messages, "tools": [TOOL]})


def tokenizer_of(template: str) -> Any:
    return tiny_tokenizer(template)


def read(
    row: Row | list[Row], template: str = CHATML, learn: Learn = ANSWERS, **limits: Any
) -> list[Example]:
    tokens = Tokens.of(tokenizer_of(template), {})
    rows = row if isinstance(row, list) else [row]
    given: dict[str, Any] = {"what": "rows", "max_length": 2000, "too_long": "error", **limits}
    job = given.pop("job", TestJob())
    return list(examples_of(rows, Reading(tokens, job, **given), learn))


def refused(row: Row | list[Row], template: str = CHATML, learn: Learn = ANSWERS) -> FineryError:
    with pytest.raises(FineryError) as caught:
        read(row, template, learn)
    return caught.value


def learned(examples: list[Example]) -> list[str]:
    decode = tiny_tokenizer().decode
    return [decode(answer.tokens) for e in examples for answer in e.answers()]


# -- which turns ---------------------------------------------------------------------------------


def test_all_turns_of_a_conversation_share_a_sequence() -> None:
    row = talk(5)
    (example,) = read(row)
    assert learned([example]) == [f"late {i}<|im_end|>" for i in range(5)]
    assert example.turns == 5
    answers = [tiny_tokenizer()(f"late {i}<|im_end|>")["input_ids"] for i in range(5)]
    assert example.loss_tokens == sum(map(len, answers))
    assert [t for t in example.labels if t != NO_LOSS] == [t for ids in answers for t in ids]


def test_each_turn_follows_its_prompt_at_inference() -> None:
    from finery_transformers.chat import PromptTemplate

    row = talk(3)
    (example,) = read(row)
    for number, answer in enumerate(example.answers()):
        messages = row["messages"][: 2 * number + 1]
        assert list(answer.prompt) == PromptTemplate(tiny_tokenizer()).prompt_tokens(messages)


def test_only_the_last_turn_can_be_learned() -> None:
    assert learned(read(talk(3), learn=Learn("last_turn"))) == ["late 2<|im_end|>"]


def test_marked_turns_are_learned() -> None:
    row = talk(3)
    row["messages"][3]["weight"] = 0
    examples = read(row, learn=Learn("marked"))
    assert learned(examples) == ["late 0<|im_end|>", "late 2<|im_end|>"]
    assert len(learned(read(row))) == 3


def test_marked_without_marks_is_refused() -> None:
    error = refused(talk(2), learn=Learn("marked"))
    assert error.what == "rows: loss: marked, but no assistant turn has a `weight`"
    assert (error.where, "loss: all_turns" in str(error.fix)) == ("loss", True)
    half = talk(2)
    half["messages"][1]["weight"] = 1
    assert (
        "turns without a weight would be learned too: 1 of"
        in refused(half, learn=Learn("marked")).what
    )


def test_of_a_completion_its_assistant_turns_are_learned() -> None:
    messages = called()["messages"]
    row = with_id({"prompt": messages[:1], "completion": messages[1:], "tools": [TOOL]})
    call, answer = learned(read(row, CALLS))
    assert call.startswith("<tool_call>")
    assert answer == "It is late.<|im_end|>"
    late = with_id({"prompt": messages[:3], "completion": messages[3:], "tools": [TOOL]})
    assert learned(read(late, CALLS)) == ["It is late.<|im_end|>"]


def test_what_tools_say_has_no_loss() -> None:
    (example,) = read(called(), CALLS)
    assert "Kassel" not in "".join(learned([example]))
    assert "Kassel" in tiny_tokenizer().decode(example.tokens)


# -- split rows ----------------------------------------------------------------------------------


def test_a_template_that_rewrites_earlier_turns_splits_rows() -> None:
    examples = read(talk(3, reasoning_content="so"), THINKS)
    thought = "<think>\nso\n</think>\n\n"
    assert learned(examples) == [f"{thought}late {i}<|im_end|>" for i in range(3)]
    assert [e.part for e in examples] == [0, 1, 2]
    assert {e.row_id for e in examples} == {talk(3, reasoning_content="so")["id"]}
    assert rows_in(examples) == 1
    last = tiny_tokenizer().decode(examples[-1].tokens)
    assert last.count("<think>") == 1  # as at inference, without earlier thinking


def test_a_template_that_keeps_earlier_thinking_does_not() -> None:
    (example,) = read(talk(3, reasoning_content="so"), KEEPS)
    assert example.turns == 3


def test_max_length_applies_to_each_part() -> None:
    row = talk(4, reasoning_content="so")
    sizes = [e.size for e in read(row, THINKS)]
    job = TestJob()
    kept = read([row], THINKS, max_length=sizes[1], too_long="drop", job=job)
    assert [e.size for e in kept] == sizes[:2]
    (line,) = [e["message"] for e in job.events if e["event"] == "log"]
    assert "1 of 1 rows are longer than" in line
    assert "except for the shorter turns of 1 of them" in line
    with pytest.raises(DataError, match="1 of 1 rows are longer than"):
        read([row], THINKS, max_length=sizes[1])


# -- the boundary between prompt and answer --------------------------------------------------------


def test_a_tokenizer_that_would_join_prompt_and_answer_is_no_obstacle() -> None:
    joins = (
        "{% for m in messages %}{{ 'where is my ca' if m.role == 'assistant' else '' }}"
        "{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}where is my ca{% endif %}"
    )
    tokenizer = tiny_tokenizer(joins)
    row = with_id({"messages": [turn("user", "hi"), turn("assistant", "rd")]})
    (example,) = read(row, joins)
    prompt = tokenizer("hi<|im_end|>where is my ca")["input_ids"]
    answer = tokenizer("rd<|im_end|>")["input_ids"]
    assert tokenizer("hi<|im_end|>where is my card<|im_end|>")["input_ids"] != prompt + answer
    assert example.tokens == prompt + answer
    assert [label for label in example.labels if label != NO_LOSS] == answer


# -- thinking ------------------------------------------------------------------------------------


def test_thinking_in_the_text_is_recognised() -> None:
    own = read(talk(1, reasoning_content="so"), THINKS)
    row = with_id({"messages": [turn("user", "where is card 0"), turn("assistant", "")]})
    row["messages"][1]["content"] = "<think>\nso\n</think>\n\nlate 0"
    assert read(row, THINKS)[0].tokens == own[0].tokens


def test_thinking_can_be_masked() -> None:
    row = talk(1, reasoning_content="my card is late")
    whole, masked = read(row, THINKS), read(row, THINKS, Learn(thinking="masked"))
    assert masked[0].tokens == whole[0].tokens
    assert learned(masked) == ["<think>\n", "\n</think>\n\nlate 0<|im_end|>"]


@pytest.mark.parametrize("thought", ["think", "hi", "k"])
def test_the_thinking_is_masked_where_it_stands(thought: str) -> None:
    row = talk(1, reasoning_content=thought)
    masked = read(row, THINKS, Learn(thinking="masked"))
    assert learned(masked) == ["<think>\n", "\n</think>\n\nlate 0<|im_end|>"]
    after = CHATML.replace(
        "{{ m.content }}",
        "{{ m.content }}{% if m.reasoning_content %} <think>{{ m.reasoning_content }}</think>"
        "{% endif %}",
    )
    row = talk(1, reasoning_content="late 0")
    masked = read(row, after, Learn(thinking="masked"))
    assert learned(masked) == ["late 0 <think>", "</think><|im_end|>"]


@pytest.mark.parametrize(
    "text",
    ["[THINK]so[/THINK]late", "Hm. <think>so</think>late"],
)  # fmt: skip
def test_thinking_that_is_not_recognised_cannot_be_masked(text: str) -> None:
    row = with_id({"messages": [turn("user", "hi"), turn("assistant", text)]})
    error = refused(row, CHATML, Learn(thinking="masked"))
    assert "thinking in a notation that isn't recognised, so that it can't be masked" in error.what
    assert "put the thinking into `reasoning_content`" in str(error.fix)
    assert learned(read(row, CHATML)) == [f"{text}<|im_end|>"]


def test_rows_without_thinking_can_have_it_switched_off() -> None:
    (example,) = read(talk(1), THINKS, Learn(without_thinking="switch"))
    assert learned([example]) == ["late 0<|im_end|>"]
    prompt = tiny_tokenizer().decode(example.answers()[0].prompt)
    assert prompt.endswith("<think>\n\n</think>\n\n")
    thinking = talk(1, reasoning_content="so")
    assert "so" in learned(read(thinking, THINKS, Learn(without_thinking="switch")))[0]


def test_a_template_that_drops_thinking_is_refused() -> None:
    error = refused(talk(2, reasoning_content="so"))
    assert isinstance(error, StepError)
    assert "thinking that the model's chat template doesn't write in 1 of 1 rows" in error.what
    assert error.details[0].endswith("turn 2, after 'where is card 0'")
    assert "use a chat template that writes `reasoning_content`" in str(error.fix)
    strips = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
    row = with_id({"messages": [turn("user", "hi"), turn("assistant", "<think>so</think>late")]})
    assert "thinking that the model's" in refused(row, strips).what


def test_a_doubled_think_block_is_refused() -> None:
    opened = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif").replace(
        "{{ m.content }}",
        "{{ '<think>\n' if m.role == 'assistant' else '' }}{{ m.content }}",
    )
    row = with_id({"messages": [turn("user", "hi"), turn("assistant", "<think>so</think>late")]})
    error = refused(row, opened)
    assert "two think blocks in an answer in 1 of 1 rows" in error.what
    assert error.details == [f"{row['id']}: turn 2, after 'hi'"]
    both = talk(1, reasoning_content="so")
    both["messages"][1]["content"] = "<think>so</think>late"
    assert "two think blocks" in refused(both, THINKS).what


def test_prompts_that_open_a_think_block_name_the_switch() -> None:
    opens = THINKS.replace(
        "</think>\n\n{% endif %}{% endif %}",
        "</think>\n\n{% else %}<think>\n{% endif %}{% endif %}",
    )
    bare = opens.replace("and loop.last", "and m.reasoning_content").replace(
        "{{ m.content }}",
        "{{ '<think>\n\n</think>\n\n' if m.role == 'assistant' and not m.reasoning_content "
        "and enable_thinking is false else '' }}{{ m.content }}",
    )
    error = refused(talk(1), bare)
    assert "a prompt that differs from the one used at inference" in error.what
    assert "set `without_thinking: switch`" in str(error.fix)
    assert learned(read(talk(1), bare, Learn(without_thinking="switch"))) == ["late 0<|im_end|>"]


# -- tools ---------------------------------------------------------------------------------------


NO_TOOLS = CALLS.replace("{% if tools %}", "{% if false %}")
NO_ANSWER = CALLS.replace("{{ m.content }}", "{{ m.content if m.role != 'tool' else '' }}")
NO_ARGUMENTS = CALLS.replace("{{ c.function.arguments | tojson }}", "{}")
FIRST_CALL = CALLS.replace("m.tool_calls or []", "(m.tool_calls or [])[:1]")
TWICE = CALLS.replace("c.function.arguments | tojson", "c.function.arguments | tojson | tojson")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML, "the tool track isn't written"),
        (NO_TOOLS, "the tool track isn't written"),
        (NO_ANSWER, "turn 3: the tool's answer isn't written"),
        (NO_ARGUMENTS, "turn 2: an argument of the call of track (number) isn't written"),
        (TWICE, "turn 2: an argument of the call of track (number) is encoded as JSON twice"),
    ],
    ids=["nothing", "tools", "answer", "arguments", "twice"],
)
def test_a_template_that_drops_a_part_is_refused(template: str, reason: str) -> None:
    row = called()
    error = refused([talk(1), row], template)
    assert isinstance(error, StepError)
    assert (
        "tools, calls or answers of tools that the model's chat template doesn't write in "
        f"1 of 2 rows: {row['id']}" in error.what
    )
    assert f"{row['id']}: {reason}" in error.details
    assert "tools_as: text" in str(error.fix)


def test_arguments_that_a_template_wants_as_text_get_there_as_json() -> None:
    joins = CALLS.replace("{{ c.function.arguments | tojson }}", "{{ c.function.arguments }}")
    assert '"arguments": {"number": "P1"}' in learned(read(called(), joins))[0]
    row = called()
    row["messages"][1]["tool_calls"][0]["function"]["arguments"] = '{"number": "P1"}'
    assert learned(read(row, joins)) == learned(read(called(), CALLS))


def test_arguments_that_are_encoded_twice_in_the_row_are_refused() -> None:
    row = called()
    row["messages"][1]["tool_calls"][0]["function"]["arguments"] = '"{\\"number\\": \\"P1\\"}"'
    error = refused(row, CALLS)
    assert error.details == [
        f"{row['id']}: turn 2: the arguments of the call of track are encoded as JSON twice"
    ]


def test_parallel_calls_must_all_be_written() -> None:
    row = called()
    first = row["messages"][1]["tool_calls"][0]
    other = {**first, "id": "call_1", "function": {"name": "track", "arguments": {"number": "P2"}}}
    row["messages"][1]["tool_calls"].append(other)
    row["messages"].insert(3, turn("tool", "Bremen", tool_call_id="call_1"))
    assert '"P2"' in learned(read(row, CALLS))[0]
    assert "turn 2: the call of track isn't written" in refused(row, FIRST_CALL).details[0]


def given(**arguments: Any) -> Row:
    """A row whose call has these arguments."""
    row = called()
    row["messages"][1]["tool_calls"][0]["function"]["arguments"] = arguments
    return row


PYTHONIC = CALLS.replace(
    """{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}""",
    "<function={{ c.function.name }}>\n{% for k, v in c.function.arguments.items() %}"
    "<parameter={{ k }}>\n{{ v | tojson if v is mapping else v | string }}\n</parameter>\n"
    "{% endfor %}</function>",
)
"""Calls as Qwen3.5 writes them."""


def test_calls_that_cannot_be_read_back_are_refused() -> None:
    fine = given(number="P1")
    row = given(flag="True", number="None")
    error = refused([fine, row], PYTHONIC)
    assert isinstance(error, StepError)
    assert (
        "calls that can't be read back from what the model's chat template writes in 1 of 2 rows"
        in error.what
    )
    assert error.details == [
        f"{row['id']}: turn 2, after 'where is P1': the argument flag of track is read back as "
        'true rather than "True"'
    ]
    assert "tools_as: text" in str(error.fix)
    assert learned(read(row, CALLS))[0].startswith("<tool_call>")


@pytest.mark.parametrize("arguments", [
    {"number": "True"}, {"flag": True}, {"more": {"a": [None]}},
])  # fmt: skip
def test_calls_that_can_be_read_back_are_learned(arguments: dict[str, Any]) -> None:
    assert read(given(**arguments), PYTHONIC)


@pytest.mark.parametrize("value", [0, None])
def test_a_template_that_drops_an_argument_is_refused(value: Any) -> None:
    # Its commas make JSON that no reader knows.
    some = CALLS.replace(
        "{{ c.function.arguments | tojson }}",
        "{{ '{' }}{% for k, v in c.function.arguments.items() if v and v is not boolean %}"
        '"{{ k }}": {{ v | tojson }}, {% endfor %}{{ "}" }}',
    )
    error = refused(given(number="P1", flag=value), some)
    assert error.details[0].endswith(
        "turn 2: an argument of the call of track (flag) isn't written"
    )


def test_a_template_that_leaves_out_parameters_is_refused() -> None:
    bare = CALLS.replace("{{ t | tojson }}", "{{ t.function.name }}: {{ t.function.description }}")
    row = called()
    assert refused(row, bare).details == [
        f"{row['id']}: the parameter number of the tool track isn't written"
    ]


# -- beginnings and ends -------------------------------------------------------------------------


def test_two_bos_tokens_are_refused() -> None:
    tokenizer = tiny_tokenizer("{{ bos_token }}{{ bos_token }}" + CHATML)
    tokenizer.bos_token = SPECIAL[0]
    tokens = Tokens.of(tokenizer, {})
    with pytest.raises(StepError, match="two BOS tokens at the beginning in 1 of 1 rows") as caught:
        list(examples_of([talk(2)], Reading(tokens, TestJob(), "rows", 200)))
    assert "turn 2" in caught.value.details[0]


def test_an_end_of_turn_that_is_missing_within_a_conversation_is_refused() -> None:
    endless = CHATML.replace("<|im_end|>", "{{ '<|im_end|>' if m.content != 'late 1' }}")
    error = refused(talk(3), endless)
    assert "an answer that doesn't end with an end-of-turn token in 1 of 1 rows" in error.what
    assert "turn 4, after 'where is card 1'" in error.details[0]


# -- base and adapter ----------------------------------------------------------------------------


def of_template(folder: Path, template: str, **meta: Any) -> Model:
    tiny_tokenizer(template).save_pretrained(str(folder))
    config = '{"model_type": "llama", "max_position_embeddings": 2048}'
    (folder / "config.json").write_text(config, encoding="utf-8")
    return Model(folder, meta={"format": "transformers"} | meta)


def test_an_adapter_whose_template_writes_rows_differently_is_refused(tmp_path: Path) -> None:
    base = of_template(tmp_path / "base", CHATML)
    rows = [dataset(tmp_path / "rows", [talk(2)])]
    other = of_template(tmp_path / "other", CHATML.replace("{{ m.content", "{{ '> ' ~ m.content"))
    for folder in (base.path, other.path):
        adapter = Model(folder, meta={"format": "adapter"}, refs={"base": base})
        step = Sft(model=adapter, rows=rows)
        if folder == base.path:
            assert read_rows(step, TestJob())[1].learned
            continue
        with pytest.raises(StepError, match="the chat template of the adapter writes") as caught:
            read_rows(step, TestJob())
        details = caught.value.details
        assert details[0] == f"{talk(2)['id']}: turn 1: from token 6"
        assert details[1].startswith("base:    …")
        assert details[2].startswith("adapter: …")


# -- what is said --------------------------------------------------------------------------------


Prove = Callable[..., Any]


@pytest.fixture
def proof(tmp_path: Path) -> Prove:
    def prove_rows(rows: list[Row], template: str = CHATML, **settings: Any) -> Any:
        model = of_template(tmp_path / "model", template)
        step = Sft(model=model, rows=[dataset(tmp_path / "rows", rows)], **settings)
        return prove(step, TestJob(), 1)[0]

    return prove_rows


def test_a_note_counts_turns_without_loss(proof: Prove) -> None:
    made = proof([talk(5), talk(2)], loss="last_turn")
    assert made.notes == ["5 of 7 assistant turns have no loss: loss: last_turn"]
    assert made.facts["turns"] == "2 of 7 assistant turns have loss (loss: last_turn)"
    assert proof([talk(5)]).notes == []


def test_facts_tell_whether_rows_are_split_and_what_it_costs(proof: Prove) -> None:
    assert proof([talk(3)]).facts["sequences"] == (
        "one a row: the template writes earlier turns as they were learned"
    )
    made = proof([talk(3, reasoning_content="so"), talk(1)], THINKS)
    sizes = [e.size for e in read(talk(3, reasoning_content="so"), THINKS)]
    assert made.facts["sequences"] == (
        "1 row is split into 3 examples, since the template writes earlier turns differently: "
        f"{sum(sizes)} tokens instead of {sizes[-1]} ({sum(sizes) / sizes[-1]:.1f} times)"
    )
    assert (made.rows, made.examples) == (2, 4)
    assert made.counts().startswith("2 rows as 4 examples, ")
    assert [sample.row for sample in made.samples] == [made.samples[0].row] * 3
    assert made.facts["thinking"] == (
        "3 turns with thinking, with loss (thinking: learned); 1 row without, rendered as the "
        "template writes them (without_thinking: template)"
    )


def test_samples_show_each_turn_with_its_loss(proof: Prove) -> None:
    (sample,) = proof([talk(2)]).samples
    assert [(piece.text, piece.loss) for piece in sample.pieces] == [
        ("<|im_start|>user\nwhere is card 0<|im_end|>\n<|im_start|>assistant\n", False),
        ("late 0<|im_end|>", True),
        ("\n<|im_start|>user\nwhere is card 1<|im_end|>\n<|im_start|>assistant\n", False),
        ("late 1<|im_end|>", True),
    ]


def test_a_preference_over_several_turns_is_refused(tmp_path: Path) -> None:
    messages = called()["messages"]
    pair = {"prompt": messages[:1], "chosen": messages[1:], "rejected": [turn("assistant", "no")]}
    model = of_template(tmp_path / "model", CALLS)
    step = Dpo(model=model, rows=[dataset(tmp_path / "rows", [with_id({**pair, "tools": [TOOL]})])])
    with pytest.raises(DataError, match="an answer of several turns") as caught:
        read_rows(step, TestJob())
    assert "move all turns but the last into the prompt" in str(caught.value.fix)
