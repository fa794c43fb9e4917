"""`eval.tools`: which calls are right, which arguments are the same, and what is reported."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from callers import TOOLS, by_prompt, call, caller, calls, job, row

from finery import DataError, Dataset, Metrics, Model, UsageError
from finery.rows.templates import limits
from finery.testing import TestJob, dataset, examine
from finery_eval.arguments import Equality, coerced
from finery_eval.steps.tools import ToolCalls
from finery_eval.view.answers import answer_of, reasons

OSLO = call("weather", city="Oslo")
Report = dict[str, Any]


def judge(
    folder: Path, rows: list[dict[str, Any]], *models: Model, **settings: Any
) -> tuple[Report, list[dict[str, Any]]]:
    """(report, predictions) of an evaluation."""
    step = ToolCalls(models=list(models), rows=dataset(folder / "rows", rows), **settings)
    metrics = step.run(job(folder / "job"))
    assert isinstance(metrics, Metrics)
    return metrics.report().data(), list(metrics.predictions())


def verdict(folder: Path, expected: Any, answer: Any, **settings: Any) -> dict[str, Any]:
    """What an answer counts as. expected, answer: calls, or a text."""
    due = expected if isinstance(expected, list) else []
    text = expected if isinstance(expected, str) else ""
    reply = calls(*answer) if isinstance(answer, list) else answer
    model = caller("m", by_prompt(q=reply))
    _, (prediction,) = judge(folder, [row("q", *due, text=text)], model, **settings)
    return prediction


def table_of(report: Report, title: str) -> list[list[Any]]:
    """The rows of a table."""
    (rows,) = [t["rows"] for t in report["details"]["tables"] if t["title"] == title]
    return rows  # type: ignore[no-any-return]


def test_each_metric_has_its_own_rows(tmp_path: Path) -> None:
    rows = [
        row("right", OSLO),
        row("argument", OSLO),
        row("tool", OSLO),
        row("none", text="Hello."),
        row("some", text="Hello."),
        row("malformed", OSLO),
    ]
    model = caller(
        "sft",
        by_prompt(
            right=calls(OSLO),
            argument=calls(call("weather", city="Bergen")),
            tool=calls(call("book", guests=["me"])),
            none="Hi there.",
            some=calls(OSLO),
            malformed=calls(call("weather", town="Oslo")),
        ),
    )
    report, predictions = judge(tmp_path, rows, model)
    scores = report["scores"]["sft"]
    assert scores == {
        "accuracy": 2 / 6,
        "tool": 3 / 4,
        "arguments": 1 / 3,
        "no_call": 1 / 2,
        "valid": 4 / 5,
    }
    assert report["details"]["headline"] == list(scores)
    assert [p["correct"] for p in predictions] == [True, False, False, True, False, False]
    low, high = report["intervals"]["sft"]["arguments"]
    assert low < 1 / 3 < high
    assert high - low > 0.6  # three rows count for it


def test_parallel_calls_are_a_set(tmp_path: Path) -> None:
    bergen = call("weather", city="Bergen")
    assert verdict(tmp_path / "1", [OSLO, bergen], [bergen, OSLO])["correct"]
    assert not verdict(tmp_path / "2", [OSLO, bergen], [OSLO, OSLO])["correct"]
    assert not verdict(tmp_path / "3", [OSLO, OSLO], [OSLO])["correct"]
    assert verdict(tmp_path / "4", [OSLO, OSLO], [OSLO, OSLO])["correct"]
    assert not verdict(tmp_path / "5", [OSLO], [OSLO, bergen])["values"]["tool"]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ({"city": "Oslo", "days": 1}, True),  # the default, given
        ({"days": 1.0, "city": "Oslo"}, True),
        ({"city": "Oslo", "days": "1"}, False),
        ({"city": " Oslo"}, False),
        ({"city": "Oslo", "unit": "C"}, False),
    ],
)
def test_arguments_are_compared_by_value(
    answer: dict[str, Any], right: bool, tmp_path: Path
) -> None:
    assert verdict(tmp_path, [OSLO], [call("weather", **answer)])["correct"] is right


@pytest.mark.parametrize(
    ("settings", "answer", "right"),
    [
        ({"ignore_case": True}, {"city": "OSLO", "unit": "C"}, True),
        ({"strip": True}, {"city": " Oslo\n", "unit": "C"}, True),
        ({"coerce": True}, {"city": "Oslo", "unit": "C", "days": "1"}, True),
        ({"free": ["weather.city"]}, {"city": "Bergen", "unit": "C"}, True),
        ({"free": ["weather.city"]}, {"city": " ", "unit": "C"}, False),
    ],
)
def test_settings_relax_the_comparison(
    settings: dict[str, Any], answer: dict[str, Any], right: bool, tmp_path: Path
) -> None:
    want = call("weather", city="Oslo", unit="C")
    assert verdict(tmp_path, [want], [call("weather", **answer)], **settings)["correct"] is right


def test_the_order_of_a_list_counts_unless_it_is_named(tmp_path: Path) -> None:
    want, answer = call("book", guests=["a", "b"]), call("book", guests=["b", "a"])
    assert not verdict(tmp_path / "1", [want], [answer])["correct"]
    assert verdict(tmp_path / "2", [want], [answer], unordered=["book.guests"])["correct"]
    other = call("book", guests=["b", "b"])
    assert not verdict(tmp_path / "3", [want], [other], unordered=["book.guests"])["correct"]


SCHEMA = {
    "type": "object",
    "properties": {
        "tags": {"type": "array", "uniqueItems": True, "items": {"type": "string"}},
        "to": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Address"}], "default": None},
        "size": {"oneOf": [{"type": "integer"}, {"enum": ["S", "M"]}]},
        "flag": {"type": "boolean"},
        "extra": {"type": "object", "additionalProperties": {"type": "number"}},
    },
    "$defs": {
        "Address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "country": {"default": "NO"}},
            "required": ["street"],
        },
        "Tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/Tree"}}},
    },
}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"tags": ["a", "b"]}, {"tags": ["b", "a"]}, True),
        ({"to": None}, {}, True),
        ({"to": {"street": "x"}}, {"to": {"street": "x", "country": "SE"}}, False),
        ({"size": 3}, {"size": 3.0}, True),
        ({"size": "S"}, {"size": "s"}, False),
        ({"flag": True}, {"flag": 1}, False),
    ],
)
def test_the_schema_says_what_is_the_same(
    one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    equality = Equality(ignore_case=True)
    forms = [equality.normal("t", SCHEMA, arguments) for arguments in (one, other)]
    assert (forms[0] == forms[1]) is same
    assert list(equality.differing("t", SCHEMA, one, other)) == ([] if same else [*one])


def test_a_schema_that_refers_to_itself_ends() -> None:
    schema = {**SCHEMA, "$ref": "#/$defs/Tree"}
    loop = {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}
    tree: dict[str, Any] = {"left": {"left": {"left": {}}}}
    assert Equality().normal("t", schema, tree) != Equality().normal("t", schema, {"left": {}})
    assert Equality().normal("t", loop, tree) == Equality().normal("t", loop, tree)


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ({"size": "3"}, {"size": 3}),  # the texts that the schema allows are S and M
        ({"flag": "True", "tags": '["a"]'}, {"flag": True, "tags": ["a"]}),
        ({"to": {"street": 7}}, {"to": {"street": "7"}}),
    ],
)
def test_coercion_reads_what_the_schema_asks_for(
    value: dict[str, Any], result: dict[str, Any] | None
) -> None:
    wanted = {"flag": "yes", "extra": {"a": 1.5, "b": "x"}} if result is None else result
    assert coerced(value, SCHEMA) == wanted


@pytest.mark.parametrize("city", ["1" * 400, "1" * 5000, "[NaN]", "[1e400]"])
def test_what_can_not_be_coerced_is_wrong(city: str, tmp_path: Path) -> None:
    tools = [tool({"n": {"anyOf": [{"type": "integer"}, {"type": "array"}]}})]
    rows = [{**row("q", call("f", n=1)), "tools": tools}]
    model = caller("m", by_prompt(q=calls(call("f", n=city))))
    report, (prediction,) = judge(tmp_path, rows, model, coerce=True)
    assert report["scores"]["m"] == {"accuracy": 0, "tool": 1, "arguments": 0, "valid": 0}
    assert "f: n: " in prediction["problem"]


def tool(properties: dict[str, Any], **schema: Any) -> dict[str, Any]:
    """A tool `f` with these arguments."""
    parameters = {"type": "object", "properties": properties, **schema}
    return {"type": "function", "function": {"name": "f", "parameters": parameters}}


LOOP = {"loop": {"$ref": "#/$defs/loop"}}
UNCHECKED = "f: can't be checked by its schema"


@pytest.mark.parametrize(
    ("properties", "arguments", "reason"),
    [
        (
            {"n": {"pattern": r"^(\w+\s?)+$"}},
            {"n": "Anna" * 10 + "!"},
            "that takes more than 0.2 s",
        ),
        ({"n": LOOP["loop"]}, {"n": 1}, "the schema refers to itself without end"),
    ],
)
def test_a_call_that_can_not_be_checked_is_malformed(
    properties: dict[str, Any],
    arguments: dict[str, Any],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    own, other = call("f", ok=1), call("f", **arguments)
    tools = [tool({**properties, "ok": {}}, **{"$defs": LOOP})]
    rows = [{**row(name, own), "tools": tools} for name in "ab"]
    model = caller("m", by_prompt(a=calls(other), b=calls(own)))
    report, predictions = judge(tmp_path, rows, model)
    assert report["scores"]["m"]["accuracy"] == report["scores"]["m"]["valid"] == 0.5
    assert predictions[0]["problem"].startswith(f"{UNCHECKED}: {reason}")
    with pytest.raises(DataError, match="the expected calls of some rows") as caught:
        judge(tmp_path / "own", [{**row("q", other), "id": "r1", "tools": tools}], model)
    assert caught.value.details[0].startswith(f"row r1, turn 2: {UNCHECKED}: {reason}")


@pytest.mark.parametrize(
    ("settings", "schema", "answer"),
    [
        ({}, {"default": "OSL", "type": "string"}, {}),
        ({"ignore_case": True}, {"pattern": "^[A-Z]{3}$"}, {"n": "osl"}),
    ],
)
def test_a_malformed_call_is_not_right(
    settings: dict[str, Any], schema: dict[str, Any], answer: dict[str, Any], tmp_path: Path
) -> None:
    tools = [tool({"n": schema}, required=["n"])]
    rows = [{**row("q", call("f", n="OSL")), "tools": tools}]
    model = caller("m", by_prompt(q=calls(call("f", **answer))))
    report, (prediction,) = judge(tmp_path, rows, model, **settings)
    assert report["scores"]["m"] == {"accuracy": 0, "tool": 1, "arguments": 0, "valid": 0}
    assert table_of(report, "m: calls by tool") == [["f", 1, 1, 1, 0, ""]]
    assert not prediction["correct"]


CUT = calls(reasoning="Hm, let me", finish_reason="length")


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (CUT, "the answer was cut off before it began: max_tokens is too small"),
        ("", "the answer is empty"),
    ],
)
def test_an_empty_answer_is_not_right(answer: Any, problem: str, tmp_path: Path) -> None:
    rows = [row("q", text="Which city?"), row("p", text="Which day?")]
    report, predictions = judge(tmp_path, rows, caller("m", by_prompt(q=answer, p="Day?")))
    assert report["scores"]["m"] == {"accuracy": 0.5, "no_call": 0.5}
    assert [p["correct"] for p in predictions] == [False, True]
    assert next(iter(reasons(predictions[0]))).startswith(problem)


def raw(name: Any, arguments: Any) -> dict[str, Any]:
    """A call as a model may make it."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (raw("weather", '{"city": '), "arguments: JSON that ends too early", "the arguments of"),
        (raw("forecast", "{}"), "calls a tool that isn't offered", "calls forecast, which isn't"),
        (raw("weather", "{}"), "weather: breaks its schema (required)", "'city' is a required"),
        (raw("", "{}"), "names no tool", "a call names no tool"),
    ],
)
def test_malformed_calls_are_counted_with_an_example(
    answer: dict[str, Any], kind: str, text: str, tmp_path: Path
) -> None:
    model = caller("m", by_prompt(q=calls(answer)))
    report, (prediction,) = judge(tmp_path, [row("q", OSLO)], model)
    ((name, reason, n, example),) = table_of(report, "Malformed calls")
    assert (name, reason, n) == ("m", kind, 1)
    assert text in example
    assert text in prediction["problem"]
    assert report["scores"]["m"]["valid"] == 0
    assert not prediction["correct"]


def test_what_looks_like_a_call_is_one(tmp_path: Path) -> None:
    reply = calls(text='<tool_call>{"name": ', finish_reason="stop", call_error="no JSON")
    model = caller("m", by_prompt(a=reply, b=reply))
    report, _ = judge(tmp_path, [row("a", OSLO), row("b", text="Hi.")], model)
    assert report["scores"]["m"] == {"accuracy": 0, "tool": 0, "no_call": 0, "valid": 0}
    ((_, reason, n, example),) = table_of(report, "Malformed calls")
    assert (reason, n) == ("can't be read as a call", 2)
    assert "no JSON: <tool_call>" in example


HOSTILE: list[Any] = [
    None, "weather", {}, {"function": None}, {"function": {"name": ["weather"]}},
    raw("weather", 5), raw("weather", None), raw("weather", "null"), raw("weather", "NaN"),
    raw("weather", '{"city": 1, "city": 2}'), raw("weather", "[" * 500 + "]" * 500),
    raw("weather", '{"city": "\\ud800"}'), raw("weather", '{"city": ' + "9" * 400 + "}"),
    raw("weather", '"{\\"city\\": \\"Oslo\\"}"'), raw("x" * 5000, "{}"),
]  # fmt: skip


@pytest.mark.parametrize("coerce", [False, True])
@pytest.mark.parametrize("answer", HOSTILE)
def test_hostile_calls_are_malformed(answer: Any, coerce: bool, tmp_path: Path) -> None:
    model = caller("m", by_prompt(q=calls(answer, OSLO)))
    report, (prediction,) = judge(tmp_path, [row("q", OSLO)], model, coerce=coerce)
    assert report["scores"]["m"]["valid"] == 0
    assert not prediction["correct"]
    assert prediction["problem"]
    assert len("".join(reasons(prediction))) < 6000
    assert answer_of(prediction).endswith('weather(city="Oslo")')


def test_the_models_are_asked_with_the_tools_of_each_row(tmp_path: Path) -> None:
    offered: list[Any] = []

    def answer(messages: Any, tools: Any) -> str:
        offered.append([t["function"]["name"] for t in tools])
        return ""

    rows = [row("a", OSLO), {**row("b", OSLO), "tools": TOOLS[:1]}]
    judge(tmp_path, rows, caller("m", answer))
    assert offered == [["weather", "book"], ["weather"]]


def test_each_tool_has_a_line(tmp_path: Path) -> None:
    rows = [row("a", OSLO), row("b", OSLO), row("c", call("book", guests=["x"]), OSLO)]
    model = caller(
        "m",
        by_prompt(a=calls(OSLO), b="No.", c=calls(call("book", guests=["y"]), raw("cook", "{}"))),
    )
    report, _ = judge(tmp_path, rows, model)
    assert table_of(report, "m: calls by tool") == [
        ["book", 1, 1, 1, 0, ""],
        ["cook", 0, 1, 0, 0, ""],
        ["weather", 3, 1, 1, 1, "no call 1×, cook 1×"],
    ]


def test_predictions_are_readable(tmp_path: Path) -> None:
    want, answer = call("weather", city="Oslo", days=3), call("weather", city="Bergen", days=3)
    wrong = verdict(tmp_path, [want], [answer])
    assert wrong["expected"] == 'weather(city="Oslo", days=3)'
    assert wrong["prediction"] == answer_of(wrong) == 'weather(city="Bergen", days=3)'
    assert list(reasons(wrong)) == ['weather.city: "Bergen", expected "Oslo"']
    assert wrong["tool_calls"] == [answer]


def judged_row(**changes: Any) -> dict[str, Any]:
    """A row with changes, `None` for a column that is missing."""
    return {k: v for k, v in {**row("q", OSLO), "id": "r1", **changes}.items() if v is not None}


def turns(*of: dict[str, Any], ask: str = "q") -> list[dict[str, Any]]:
    """A prompt and the turns after it."""
    return [{"role": "user", "content": ask}, *of]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (judged_row(tools=None), "turn 2: it offers no `tools`"),
        (judged_row(tools=[TOOLS[1]]), "turn 2: calls weather, which isn't offered"),
        (
            judged_row(messages=turns({"role": "assistant", "tool_calls": [raw("weather", "{}")]})),
            "turn 2: weather: 'city' is a required property",
        ),
        (
            {
                "id": "r1",
                "prompt": "q",
                "completion": [{"role": "assistant", "content": "x"}] * 2,
                "tools": TOOLS,
            },
            "turn 2: 2 turns are expected, but only one is judged: use eval.dialog",
        ),
    ],
)
def test_rows_that_can_not_be_judged_are_named(
    bad: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="the expected calls of some rows") as caught:
        judge(tmp_path, [row("fine", OSLO), bad], caller("m", by_prompt()))
    (line,) = caught.value.details
    assert line.startswith(f"row r1, {reason}")


@pytest.mark.parametrize(
    ("settings", "what", "where"),
    [
        ({"free": ["city"]}, "'city' doesn't name an argument of a tool", "free"),
        ({"extract": "(x)"}, "`extract` selects a part", "extract"),
    ],
)
def test_settings_that_can_not_work(settings: dict[str, Any], what: str, where: str | None) -> None:
    step = ToolCalls(models=[Model.placeholder("m")], rows=Dataset.placeholder("r"), **settings)
    with pytest.raises(UsageError) as caught:
        step.check()
    assert what in caught.value.what
    assert where is None or caught.value.where == where


LISTS: dict[str, Any] = {
    "plain": {"type": "array"},
    "nullable": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"type": "string"}}]},
    "named": {"$ref": "#/$defs/Names"},
    "anything": {},
    "true": True,
}
NO_LISTS: dict[str, Any] = {
    "text": {"type": "string"},
    "options": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    "inside": {"type": "object", "properties": {"a": {"type": "array"}}},
}


def offered(name: str) -> list[dict[str, Any]]:
    """A tool with arguments that are lists, and others."""
    schema = {
        "type": "object", "properties": {**LISTS, **NO_LISTS},
        "$defs": {"Names": {"anyOf": [{"type": "array"}, {"type": "null"}]}},
    }  # fmt: skip
    return [{"type": "function", "function": {"name": name, "parameters": schema}}]


def sampled(rows: Iterable[dict[str, Any]], **settings: Any) -> None:
    """Check the settings against rows that aren't built yet."""
    step = ToolCalls(models=[], rows=Dataset.placeholder("r"), **settings)
    examine(step, rows={"rows": [*rows]})


@pytest.mark.parametrize("name", LISTS)
def test_an_argument_that_may_be_a_list_can_be_unordered(name: str) -> None:
    sampled([{"tools": offered("t")}], unordered=[f"t.{name}"])


@pytest.mark.parametrize("name", NO_LISTS)
def test_an_argument_that_is_no_list_has_no_order(name: str) -> None:
    rows, unordered = [{"tools": json.dumps(offered("t"))}], [f"t.{name}"]
    with pytest.raises(DataError, match=f"'t.{name}' isn't a list") as caught:
        sampled(rows, unordered=unordered)
    assert caught.value.where == "unordered"
    step = ToolCalls(models=[], rows=Dataset.placeholder("r"), unordered=unordered)
    with pytest.raises(DataError, match=f"'t.{name}' isn't a list"):
        step.judging(TestJob(), [{**row("q", text="a"), "tools": offered("t")}])


def test_what_the_first_rows_can_not_tell_is_left_to_the_step() -> None:
    rows = [{"tools": offered("t")}] * 300
    sampled(rows, free=["other.text"])  # a later row may offer it
    sampled([{"tools": "no JSON"}], free=["other.text"])
    sampled([{"prompt": "q"}], free=["other.text"])
    with pytest.raises(DataError, match=r"no tool of the rows has the argument 't\.txt'") as caught:
        sampled(rows, free=["t.txt"])
    assert caught.value.fix == "did you mean 't.text'?"
    assert caught.value.details == ["found in the first 200 rows"]
    with pytest.raises(DataError, match=r"no tool of the rows has the argument 'other\.text'"):
        sampled(rows[:200], free=["other.text"])


def test_an_argument_that_no_tool_has(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tool of the rows has the argument 'weather\.town'"):
        judge(tmp_path, [row("q", OSLO)], caller("m", by_prompt()), free=["weather.town"])
    inner = call("book", guests=["a"], at={"hour": 7})
    other = call("book", guests=["a"], at={"hour": 8})
    assert verdict(tmp_path / "2", [inner], [other], free=["book.at.hour"])["correct"]


def test_what_no_row_measures_is_not_met(tmp_path: Path) -> None:
    from finery import RequirementError

    step = ToolCalls(
        models=[caller("m", by_prompt())],
        rows=dataset(tmp_path / "rows", [row("q", OSLO)]),
        require={"m.arguments": ">= 0.5"},
    )
    metrics = step.run(job(tmp_path / "job"))
    with pytest.raises(RequirementError) as caught:
        step.verify({"": metrics})
    assert caught.value.details == ["m.arguments applies to none of the 1 rows; required >= 0.5"]
