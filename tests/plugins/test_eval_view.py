"""What evaluations look like: scores side by side, and why an answer is wrong, in few words."""

import re
from pathlib import Path
from typing import Any

import pytest
import tables
from showing import lines, shown

from finery import Metrics, UsageError
from finery.artifact.manifest import manifest
from finery.rows.report import Report, ReportTable, Score
from finery.testing import TestJob, run_step
from finery.views import Matrix, Output
from finery_eval.steps.classification import CONFUSION, Classification
from finery_eval.steps.exact import Exact
from finery_eval.steps.structured import Json
from finery_eval.view.answers import answer_of, reasons
from finery_eval.view.tables import comparable, matrices, scores

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


def test_of_classes_by_field_the_wrong_fields_are_told(tmp_path: Path) -> None:
    answers = ("team: ops\nlevel: high", "team: ops\nlevel: low")
    found = wrong(
        Classification, tmp_path, *answers,
        fields=["team", "level"], labels={"level": ["low", "high"]},
    )  # fmt: skip
    assert list(reasons(found)) == ['level: "low", expected "high"']


def report(rows: int, *metrics: str, models: tuple[str, ...] = ("base",)) -> Report:
    """An evaluator's report of some models."""
    scores = dict.fromkeys(metrics, Score(0.5)) | {metrics[0]: Score(0.5, (0.25, 0.75))}
    return Report(rows=rows, scores=dict.fromkeys(models, scores))


def test_the_same_metrics_on_as_many_rows_share_a_table() -> None:
    reports = {"test": report(8, "accuracy"), "exported": report(8, "accuracy")}
    assert comparable(reports) == [reports]


def test_models_are_rows_and_where_there_is_no_room_columns() -> None:
    metrics = ("accuracy", "macro_f1", "category", "priority", "sentiment", "valid")
    reports = {"test": report(8, *metrics, models=("base", "sft"))}
    wide = lines(scores(reports), 120)
    assert wide[1].split() == [
        "model", "evaluation", "accuracy", "95", "%", "CI", *metrics[1:]
    ]  # fmt: skip
    assert wide[3].split()[:6] == ["base", "test", "50.0", "%", "25.0", "–"]
    narrow = lines(scores(reports), 60)
    assert narrow[1].split() == ["base", "sft"]
    assert [line.split()[0] for line in narrow[3:]] == [
        "evaluation",
        "accuracy",
        "95",
        *metrics[1:],
    ]
    assert all(len(line) <= 60 for line in narrow)
    assert not any("…" in line for line in narrow)


def matrix(labels: int) -> Matrix:
    """A matrix of long labels, in which the first class is taken for the last three times."""
    names = [f"a_rather_long_class_{n}" for n in range(labels)]
    counts = [[4 * (i == j) for j in range(labels)] for i in range(labels)]
    counts[0][-1], counts[1][0] = 3, 1
    return Matrix(names, counts)


COMPARED = ReportTable(
    title="Compared with base",
    columns=["model", "accuracy (points)", "95 % CI low", "95 % CI high", "only this right",
                "only base right", "p (McNemar, exact)", "p (Holm)"],
    rows=[["a-model-with-a-long-name", 0.253, 0.169, 0.331, 59, 12, 1e-9, 1e-9],
             ["sft", -0.1, -0.2, 0.05, 1000, 1012, 0.2, 0.4]],
    units={"accuracy (points)": "difference", "95 % CI low": "difference",
              "95 % CI high": "difference", "p (McNemar, exact)": "p", "p (Holm)": "p"},
)  # fmt: skip
CELLS = {"+25.3", "+16.9 to +33.1", "59", "12", "< 0.001", "-10.0", "-20.0 to +5.0", "1,000",
         "1,012", "0.200", "0.400"}  # fmt: skip


@pytest.mark.parametrize("width", [40, 60, 80, 88, 100, 120, 160])
def test_numbers_of_wide_tables_never_wrap(width: int) -> None:
    found = lines([COMPARED], width)
    assert max(map(len, found)) <= width
    words = {cell for line in found for cell in re.split(r"\s{2,}", line.strip())}
    assert words >= CELLS
    heads = " ".join(" ".join(found).split())
    if width >= 120:
        assert "only this right" in heads
    if width >= 88:  # one table, whose heads may wrap
        assert sum("─" in line for line in found) == 1


def evaluated(folder: Path, labels: int) -> Output:
    """An evaluation of `base`, which is always wrong, and of `sft`, which is mostly right."""
    names = [f"class{n}" for n in range(labels)]
    rows = tables.rows(folder, **{f"question {name}": name for name in names})
    answers = {f"question {name}": name for name in names} | {"question class0": "class1"}
    models = [
        tables.model("sft", **answers),
        tables.model("base", **dict.fromkeys(answers, "nonsense")),
    ]
    metrics = Classification(models=models, rows=rows).run(TestJob(folder / "job"))
    assert isinstance(metrics, Metrics)
    return Output("test", metrics, manifest("Metrics", {"rows": labels}, {}))


def test_wrong_answers_of_the_best_model_come_first_with_their_prompts(tmp_path: Path) -> None:
    output = evaluated(tmp_path, 3)
    text = shown(output)
    assert "wrong answers of sft, 1 of 1:" in text
    assert "question class0" in text
    assert "nonsense" not in text.partition("wrong answers")[2]
    assert "base: label" in text  # few classes: tables of both
    assert "wrong answers of base, 2 of 3:" in shown(output, model="base", rows=2)
    with pytest.raises(UsageError, match="test judged no model 'bse'"):
        shown(output, model="bse")


def test_labels_and_cells_are_text_and_no_markup() -> None:
    evil = "[red]a[/red]\x1b[2J"
    visible = "[red]a[/red]␛[2J"
    found = lines([Matrix([evil, "b"], [[1, 0], [2, 3]], f"m: {evil}")])
    assert f"m: {visible}" in found[0]
    assert found[1].split() == [visible, "b"]
    found = lines([ReportTable("t", [evil, "n"], [[evil, 0.5]])])
    assert [line.split()[0] for line in found[1::2]] == [visible, visible]


def test_verdicts_on_a_baseline_are_a_table(tmp_path: Path) -> None:
    rows = tables.rows(tmp_path, **{f"q{i}": "yes" for i in range(40)})
    cheap, sft = (tables.model(name, **{f"q{i}": "yes" for i in range(right)})
                  for name, right in (("cheap", 30), ("sft", 20)))  # fmt: skip
    cheap.meta["baseline"] = "majority"
    metrics: Metrics = run_step(Exact(models=[sft, cheap], rows=rows), tmp_path / "out")
    titled = {table["title"]: table for table in metrics.report().data()["details"]["tables"]}
    against = titled["sft against the baseline cheap"]
    assert against["columns"][-2:] == ["p (Holm)", "verdict"]
    assert [row[-1] for row in against["rows"]] == ["worse"]


def test_many_confused_classes_are_a_list_without_broken_words() -> None:
    made = matrix(12)
    labels = ["two\nlines", *made.labels[1:]]
    extra = {CONFUSION: {"m": {"label": {"labels": labels, "matrix": made.counts}}}}
    answers = [
        {"expected": "two\nlines", "prediction": "a_rather_long_class_11", "prompt": 30 * "word "}
    ]
    for width in (60, 1000):
        found = lines(matrices(Report(extra=extra), {"m": answers}, ""), width)
        assert max(map(len, found)) <= min(width, 160)
        text = " ".join(" ".join(found).split())
        assert "3 two lines answered as a_rather_long_class_11" in text
        assert "word word" in text
