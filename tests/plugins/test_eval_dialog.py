"""`eval.dialog`: every turn of a conversation judged, with the row's history or the model's own."""

from pathlib import Path
from typing import Any

import pytest
from callers import TOOLS, Answer, call, caller, calls, job, row

from finery import DataError, Dataset, Metrics, Model, Step, UsageError
from finery.testing import dataset, examine
from finery_eval import stats
from finery_eval.steps.classification import Classification
from finery_eval.steps.dialog import Dialog
from finery_eval.steps.exact import Exact
from finery_eval.steps.preference import Preference
from finery_eval.steps.rules import Rule, Rules
from finery_eval.steps.structured import Json
from finery_eval.steps.tools import ToolCalls

OSLO = call("weather", city="Oslo")


def talk(*texts: str, **more: Any) -> dict[str, Any]:
    """A conversation of user and assistant turns in alternation."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return {"messages": turns, **more}


def inner(cls: type[Any], **settings: Any) -> Step:
    """An evaluator with the placeholders that it has in a recipe."""
    step: Step = cls(
        models=[Model.placeholder("models")], rows=Dataset.placeholder("rows"), **settings
    )
    return step


def dialog(
    folder: Path,
    rows: list[dict[str, Any]],
    *models: Model,
    each: Step | None = None,
    **settings: Any,
) -> Dialog:
    """The step, with eval.exact inside."""
    table = dataset(folder / "rows", rows)
    return Dialog(models=list(models), rows=table, each=each or inner(Exact), **settings)


def judge(folder: Path, rows: list[dict[str, Any]], *models: Model, **more: Any) -> Any:
    """(report, predictions) of an evaluation."""
    metrics = dialog(folder, rows, *models, **more).run(job(folder / "job"))
    assert isinstance(metrics, Metrics)
    return metrics.report().data(), list(metrics.predictions())


def table_of(report: Any, title: str) -> Any:
    """The rows of a table."""
    (rows,) = [t["rows"] for t in report["details"]["tables"] if t["title"] == title]
    return rows


def repeat(messages: Any, tools: Any) -> str:
    """Answer with the last message."""
    return str(messages[-1]["content"])


def asked_with(histories: list[Any], answer: Answer = repeat) -> Answer:
    """The same answers, keeping what was asked."""

    def keeping(messages: Any, tools: Any) -> Any:
        histories.append([str(message["content"]) for message in messages])
        return answer(messages, tools)

    return keeping


ROWS = [talk("a", "a", "b", "B", "c", "c"), talk("x", "x")]


def test_every_turn_is_judged_given_the_row(tmp_path: Path) -> None:
    histories: list[Any] = []
    report, predictions = judge(tmp_path, ROWS, caller("m", asked_with(histories)))
    assert histories == [["a"], ["a", "a", "b"], ["a", "a", "b", "B", "c"], ["x"]]
    assert report["rows"] == 2
    assert report["scores"]["m"] == {
        "accuracy": 3 / 4, "whole": 1 / 2, "first_turn": 1, "last_turn": 1
    }  # fmt: skip
    assert report["details"]["headline"] == ["accuracy", "whole"]
    places = [(p["message"], p["prompt"], p["correct"]) for p in predictions]
    assert places == [(2, "a", True), (4, "b", False), (6, "c", True), (2, "x", True)]
    assert len({p["id"] for p in predictions}) == 2


def test_the_own_history_is_what_the_model_said(tmp_path: Path) -> None:
    histories: list[Any] = []
    model = caller("m", asked_with(histories))
    report, predictions = judge(tmp_path, ROWS, model, history="own")
    assert sorted(histories) == [["a"], ["a", "a", "b"], ["a", "a", "b", "b", "c"], ["x"]]
    assert report["scores"]["m"]["accuracy"] == 3 / 4
    assert [p["answer"] for p in predictions] == ["a", "b", "c", "x"]


def test_each_turn_has_its_scores(tmp_path: Path) -> None:
    report, _ = judge(tmp_path, ROWS, caller("m", repeat), caller("n", lambda m, t: "x"))
    rows = table_of(report, "m: turns")
    assert [line[:3] for line in rows] == [[1, 2, 1.0], [2, 1, 0.0], [3, 1, 1.0]]
    assert rows[0][3:5] == pytest.approx(stats.wilson(2, 2))
    first = report["details"]["turns"]["n"][0]
    assert first["turn"] == 1
    assert first["scores"] == {"accuracy": 0.5}
    assert set(report["details"]["turns"]) == {"m", "n"}


def test_intervals_are_over_rows(tmp_path: Path) -> None:
    right = talk(*"aabbccddee")
    wrong = talk(*"aAbBcCdDeE")
    rows = [{**row, "n": i} for i, row in enumerate([right, wrong] * 10)]
    report, _ = judge(tmp_path, rows, caller("m", repeat))
    low, high = report["intervals"]["m"]["accuracy"]
    one, other = stats.wilson(10, 20)
    assert (low, high) == pytest.approx((one, other), abs=0.05)  # not that of 100 answers
    assert report["scores"]["m"]["accuracy"] == report["scores"]["m"]["whole"] == 0.5
    assert report["intervals"]["m"]["whole"] == pytest.approx([one, other])


def test_models_are_compared_over_rows(tmp_path: Path) -> None:
    rows = [{**talk(*"aabb"), "n": i} for i in range(6)]
    base = caller("base", lambda messages, tools: "?")
    report, _ = judge(tmp_path, rows, base, caller("sft", repeat))
    (compared,) = report["details"]["comparisons"]
    assert (compared["only_model"], compared["only_baseline"]) == (12, 0)
    assert compared["difference"] == 1
    assert compared["p_value"] == pytest.approx(2 / 2**6)  # six rows, not twelve turns
    assert compared["interval"] == pytest.approx([2 * stats.wilson(6, 6)[0] - 1, 1])
    title, columns = next(
        (t["title"], t["columns"]) for t in report["details"]["tables"] if "Compared" in t["title"]
    )
    assert title == "Compared with base"
    assert columns[-1] == "p (sign flips of rows, exact)"


def weather(*turns: dict[str, Any]) -> dict[str, Any]:
    """A row in which the weather is looked up."""
    answer = {"role": "tool", "tool_call_id": OSLO["id"], "content": "rain"}
    made = row("Weather?", OSLO)
    return {**made, "messages": [*made["messages"], answer, *turns]}


LAST = {"role": "assistant", "content": "It rains."}


def test_calls_are_judged_in_each_turn(tmp_path: Path) -> None:
    histories: list[Any] = []
    rows = [weather(LAST)]
    model = caller("m", asked_with(histories, lambda m, t: "Rain." if len(m) > 1 else calls(OSLO)))
    report, predictions = judge(tmp_path, rows, model, each=inner(ToolCalls), history="own")
    assert report["scores"]["m"] == {
        "accuracy": 1, "tool": 1, "arguments": 1, "no_call": 1, "valid": 1,
        "whole": 1, "first_turn": 1, "last_turn": 1,
    }  # fmt: skip
    assert histories == [["Weather?"], ["Weather?", "", "rain"]]
    assert [p["prediction"] for p in predictions] == ['weather(city="Oslo")', "no call: Rain."]
    assert table_of(report, "m: calls by tool") == [["weather", 1, 1, 1, 1, ""]]


def test_other_calls_than_the_rows_are_replaced_in_the_own_history(tmp_path: Path) -> None:
    seen: list[Any] = []

    def answer(messages: Any, tools: Any) -> Any:
        seen.append(messages)
        return calls(call("weather", city="Bergen"))

    rows = [weather(LAST, {"role": "user", "content": "Thanks."}, LAST)]
    model = caller("m", answer)
    report, _ = judge(tmp_path, rows, model, each=inner(ToolCalls), history="own")
    assert report["scores"]["m"]["accuracy"] == 0
    assert seen[-1][1]["tool_calls"] == [OSLO]
    assert seen[-1][3] == LAST
    title = "Turns with other calls than the row's"
    assert table_of(report, title) == [["m", 3, 2]]


def test_turns_can_be_chosen(tmp_path: Path) -> None:
    rows = [weather(LAST), talk("a", "a", tools=TOOLS)]
    model = caller("m", repeat)
    _, answers = judge(tmp_path / "1", rows, model, turns="answers")
    assert [p["message"] for p in answers] == [4, 2]
    _, made = judge(tmp_path / "2", rows, model, turns="calls", each=inner(ToolCalls))
    assert [p["message"] for p in made] == [2]


def test_turns_and_rows_that_are_left_out_are_counted(tmp_path: Path) -> None:
    rows = [weather(LAST), talk("a", "a", tools=TOOLS), talk(*"aabb", tools=TOOLS)]
    rows[2]["messages"][1]["weight"] = 0
    step = dialog(tmp_path, rows, caller("m", repeat), turns="calls", each=inner(ToolCalls))
    run = job(tmp_path / "job")
    report = step.run(run).report().data()
    without = "turns without calls (turns: calls)"
    assert report["rows"] == 1
    assert table_of(report, "Not judged") == [
        ["turns with weight: 0", 1, 1], [without, 3, 3], ["whole rows, which are left out", 2, 3]
    ]  # fmt: skip
    lines = [e["message"] for e in run.events if e["event"] == "log"]
    assert f"not judged: 3 turns in 3 rows: {without}" in lines
    assert "not judged: 3 turns in 2 rows: whole rows, which are left out" in lines


def test_turns_without_weight_and_those_of_the_prompt_are_not_judged(tmp_path: Path) -> None:
    row = talk(*"aAbb")
    row["messages"][1]["weight"] = 0
    prompted = {"prompt": talk(*"aAb")["messages"], "completion": "b"}
    _, predictions = judge(tmp_path, [row, prompted], caller("m", repeat))
    assert [(p["message"], p["correct"]) for p in predictions] == [(4, True), (4, True)]


@pytest.mark.parametrize(
    ("each", "metrics"),
    [
        (inner(Classification), ["accuracy", "macro_f1", "valid"]),
        (inner(Rules, rules={"brief": Rule(max_words=1)}), ["accuracy", "brief"]),
        (inner(Json), ["accuracy", "field_score", "n", "l", "valid_json"]),
    ],
    ids=["classification", "rules", "json"],
)
@pytest.mark.parametrize("history", ["given", "own"])
def test_any_evaluator_fits(each: Any, metrics: list[str], history: str, tmp_path: Path) -> None:
    text = '{"n": 1, "l": [1, 2]}'
    rows = [{**talk("q", text, text, text), "n": i} for i in range(3)]
    report, _ = judge(tmp_path, rows, caller("m", repeat), each=each, history=history)
    assert list(report["scores"]["m"]) == [*metrics, "whole", "first_turn", "last_turn"]
    for metric, value in report["scores"]["m"].items():
        low, high = report["intervals"]["m"][metric]
        assert low <= value <= high


@pytest.mark.parametrize(
    ("bad", "each", "line"),
    [
        (talk("q", id="r1"), Exact, "row r1"),
        (talk("q", "a", "b", " ", id="r1"), Exact, "row r1, turn 4"),
        (talk("q", "a", id="r1"), ToolCalls, "row r1, turn 2: it offers no `tools`"),
    ],
)
def test_turns_that_can_not_be_judged_are_named(
    bad: dict[str, Any], each: type[Any], line: str, tmp_path: Path
) -> None:
    step = dialog(tmp_path, [bad], caller("m", repeat), each=inner(each))
    with pytest.raises(DataError) as caught:
        examine(step, tmp_path / "job")
    assert caught.value.details == [line]


@pytest.mark.parametrize(
    ("each", "what", "where"),
    [
        (None, "`each` is missing", "each"),
        (inner(Preference), "doesn't judge answers one by one", "each"),
    ],
)
def test_settings_that_can_not_work(each: Step | None, what: str, where: str) -> None:
    step = Dialog(models=[Model.placeholder("m")], rows=Dataset.placeholder("r"), each=each)
    with pytest.raises(UsageError) as caught:
        step.check()
    assert what in caught.value.what
    assert caught.value.where == where
