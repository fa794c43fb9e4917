"""What evaluations look like: scores side by side, and why an answer is wrong, in few words."""

import io
from pathlib import Path
from typing import Any

import pytest
import tables
from rich.console import Console

from finery import Metrics
from finery.testing import TestJob
from finery_eval.steps.classification import Classification
from finery_eval.steps.rules import Rule, Rules
from finery_eval.steps.sql import Sql
from finery_eval.steps.structured import Json
from finery_eval.view.answers import answer_of, reasons
from finery_eval.view.scores import (
    comparable,
    confusion_table,
    plain_table,
    print_interval_note,
    print_scores,
)

pytestmark = pytest.mark.usefixtures("tables_answer")


def wrong(evaluator: type[Any], folder: Path, expected: str, answer: str, **settings: Any) -> Any:
    """What the evaluator keeps of a wrong answer."""
    asked = {"models": [tables.model("m", q=answer)], "rows": tables.rows(folder, q=expected)}
    metrics = evaluator(**asked, **settings).run(TestJob(folder / "job"))
    assert isinstance(metrics, Metrics)
    (prediction,) = metrics.predictions()
    assert prediction["correct"] is False
    return prediction


def test_of_json_the_fields_that_differ_are_told(tmp_path: Path) -> None:
    found = wrong(Json, tmp_path, '{"a": {"b": 1}, "c": "x"}', '{\n  "a": {"b": 2}\n}')
    assert list(reasons(found)) == ["a.b: 2, expected 1", 'c: nothing, expected "x"']
    assert answer_of(found) == '{"a": {"b": 2}}'


def test_of_what_is_no_json_the_problem_alone_is_told(tmp_path: Path) -> None:
    found = wrong(Json, tmp_path, '{"a": 1}', "a is 1")
    assert list(reasons(found)) == [found["problem"]]
    assert answer_of(found) == "a is 1"


def test_of_rules_the_broken_ones_are_named(tmp_path: Path) -> None:
    rules = {"brief": Rule(max_words=1), "calm": Rule(never="!"), "late": Rule(matches="late")}
    found = wrong(Rules, tmp_path, "", "too late!", rules=rules)
    assert list(reasons(found)) == ["breaks brief, calm"]


def test_of_sql_the_difference_is_told(tmp_path: Path) -> None:
    from finery import Files

    script = tmp_path / "s.sql"
    script.write_text("CREATE TABLE t (n); INSERT INTO t VALUES (1), (2);")
    schema = Files(["s.sql"], [script])
    found = wrong(Sql, tmp_path, "SELECT n FROM t", "SELECT max(n) FROM t", schema=schema)
    assert list(reasons(found)) == ["1 rows, expected 2"]


def test_of_classes_by_field_the_wrong_fields_are_told(tmp_path: Path) -> None:
    answers = ("team: ops\nlevel: high", "team: ops\nlevel: low")
    found = wrong(
        Classification, tmp_path, *answers,
        fields=["team", "level"], labels={"level": ["low", "high"]},
    )  # fmt: skip
    assert list(reasons(found)) == ['level: "low", expected "high"']


def test_of_a_preference_both_log_probabilities_are_told() -> None:
    found = {"correct": False, "chosen_logprob": -12.345, "rejected_logprob": -9.0}
    assert list(reasons(found)) == [
        "log-probability of the chosen answer -12.35, of the rejected -9.00"
    ]


def report(rows: int, *metrics: str, models: tuple[str, ...] = ("base",)) -> dict[str, Any]:
    """An evaluator's report of some models."""
    scores = {model: dict.fromkeys(metrics, 0.5) for model in models}
    intervals = {model: {metrics[0]: [0.25, 0.75]} for model in models}
    return {"rows": rows, "scores": scores, "intervals": intervals, "details": {}}


def printed(width: int, *things: Any, reports: Any = None) -> list[str]:
    """The lines of a terminal of that width."""
    out = io.StringIO()
    console = Console(file=out, width=width)
    if reports:
        print_scores(console, reports)
    for thing in things:
        console.print(thing)
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def test_the_same_metrics_on_as_many_rows_share_a_table() -> None:
    reports = {"test": report(8, "accuracy"), "exported": report(8, "accuracy")}
    assert comparable(reports) == [reports]


def test_no_evaluator_is_lost_when_only_its_metrics_differ() -> None:
    reports = {"test": report(8, "accuracy", "macro_f1"), "exact": report(8, "accuracy")}
    assert [list(group) for group in comparable(reports)] == [["test"], ["exact"]]


def test_models_are_rows_and_where_there_is_no_room_columns() -> None:
    metrics = ("accuracy", "macro_f1", "category", "priority", "sentiment", "valid")
    reports = {"test": report(8, *metrics, models=("base", "sft"))}
    wide = printed(120, reports=reports)
    assert wide[1].split() == [
        "model", "judged", "by", "accuracy", "95", "%", "CI", *metrics[1:]
    ]  # fmt: skip
    assert wide[3].split()[:6] == ["base", "test", "50.0", "%", "25.0", "–"]
    narrow = printed(60, reports=reports)
    assert narrow[1].split() == ["base", "sft"]
    assert [line.split()[0] for line in narrow[3:]] == ["judged", "accuracy", "95", *metrics[1:]]
    assert all(len(line) <= 60 for line in narrow)
    assert not any("…" in line for line in narrow)


def test_a_table_with_intervals_says_what_they_cover() -> None:
    out = io.StringIO()
    print_interval_note(Console(file=out, width=100), {"test": report(8, "accuracy")})
    assert "choice of test rows only" in out.getvalue()


def test_labels_and_cells_are_text_and_no_markup() -> None:
    evil = "[red]a[/red]\x1b[2J"
    shown = "[red]a[/red]␛[2J"
    confusion = {"labels": [evil, "b"], "matrix": [[1, 0], [2, 3]]}
    lines = printed(120, confusion_table("m", evil, confusion))
    assert f"m: {shown}" in lines[0]
    assert lines[1].split() == [shown, "b"]
    table = {"title": "t", "columns": [evil, "n"], "rows": [[evil, 0.5]]}
    assert [line.split()[0] for line in printed(120, plain_table(table))[1::2]] == [shown, shown]
