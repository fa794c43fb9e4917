"""Rows whose calls don't fit their own tools: the note that counts and names them."""

from pathlib import Path
from typing import Any

import pytest
from tiny_llama import tiny_tokenizer

from finery import Model
from finery.rows import Row, with_id
from finery.testing import TestJob, dataset
from finery_trl.preflight import prove
from finery_trl.rows.remarks import Calls
from finery_trl.rows.turns import Learn
from finery_trl.steps import Sft
from finery_trl.train.run import read

PARAMETERS = {
    "type": "object",
    "properties": {
        "number": {"type": "string"},
        "by": {"enum": ["road", "rail"]},
        "from": {"$ref": "#/$defs/place"},
    },
    "required": ["number"],
    "$defs": {"place": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
CALLS = (
    "{% if tools %}<|im_start|>system\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n'
    "</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tool(parameters: dict[str, Any] | None = None, name: str = "track") -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, "description": "?", "parameters": parameters or PARAMETERS},
    }


def row(arguments: Any, *, tools: list[dict[str, Any]] | None = None, **turn: Any) -> Row:
    """A question, a call with these arguments, the tool's answer and the model's."""
    function = {"name": "track", "arguments": arguments}
    call = {"id": "call_0", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": "where is P1"},
        {"role": "assistant", "content": "", "tool_calls": [call], **turn},
        {"role": "tool", "content": "Kassel", "tool_call_id": "call_0"},
        {"role": "assistant", "content": "In Kassel."},
    ]
    return with_id({"messages": messages, "tools": [tool()] if tools is None else tools})


def notes(*rows: Row, learn: Learn | None = None) -> list[str]:
    calls = Calls(learn)
    for each in rows:
        calls.add(each)
    return calls.notes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"number": 1}, "track: number: 1 is not of type 'string'"),
        ({"number": "1", "to": "Oslo"}, 'track has no argument to ("Oslo")'),
        ('{"number": 1}', "track: number: 1 is not of type 'string'"),
    ],
)
def test_calls_that_break_the_schema_of_their_tool(arguments: Any, reason: str) -> None:
    broken = row(arguments)
    (note,) = notes(row({"number": "P1", "by": "rail"}), broken)
    assert note.endswith(f", in 1 of 2 rows with calls: {broken['id']}: turn 2: {reason}")


def test_a_tool_that_is_not_offered() -> None:
    for tools in ([tool(name="other")], []):
        (note,) = notes(row({"number": "P1"}, tools=tools))
        assert note.endswith("turn 2: calls track, which isn't offered")


def test_other_arguments_where_the_schema_allows_them() -> None:
    open_to_all = {**PARAMETERS, "additionalProperties": True}
    either: dict[str, Any] = {"anyOf": [{"properties": {"number": {}}}, {"properties": {"to": {}}}]}
    for parameters in (open_to_all, either):
        assert notes(row({"number": "P1", "to": "Oslo"}, tools=[tool(parameters)])) == []


def test_only_turns_that_are_learned_count() -> None:
    failed = row({"number": 1}, weight=0)
    assert notes(failed, learn=Learn("marked")) == notes(failed, learn=Learn("last_turn")) == []
    prompt, completion = failed["messages"][:3], failed["messages"][3:]
    assert notes(with_id({"prompt": prompt, "completion": completion, "tools": [tool()]})) == []


def test_a_deep_check_and_a_training_say_so(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_tokenizer(CALLS).save_pretrained(str(folder))
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    model = Model(folder, meta={"format": "transformers"})
    rows = dataset(tmp_path / "rows", [row({"number": 1}), row({"number": "P1"})])
    step, job = Sft(model=model, rows=[rows]), TestJob()
    (proof,) = prove(step, job, 0)
    read(step, job)
    (note,) = (note for note in proof.notes if "with calls" in note)
    assert f"rows: {note}" in [e["message"] for e in job.events if e["event"] == "log"]
