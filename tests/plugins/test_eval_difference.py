"""Two evaluations by the same step: scores, tests and flips on the rows that both judged."""

import json
from pathlib import Path
from typing import Any

import pytest
import tables
from showing import compared
from sklearn.metrics import f1_score

from finery import Metrics
from finery.artifact.manifest import manifest
from finery.testing import TestJob, dataset
from finery.views import Output
from finery_eval.predictions import by_model, difference_between, paired
from finery_eval.stats import same_in_all
from finery_eval.steps.classification import Classification
from finery_eval.steps.exact import Exact
from finery_eval.view.difference import difference_of

pytestmark = pytest.mark.usefixtures("tables_answer")
CLASSES = ("card", "cash", "loan")
EXPECTED = {f"q{i}": CLASSES[i * i % 3] for i in range(90)}


def judged(folder: Path, asked: range, wrong: int, **settings: Any) -> Metrics:
    """An evaluation on some rows, in which every answer with a multiple of `wrong` is `loan`."""
    expected = {f"q{i}": EXPECTED[f"q{i}"] for i in asked}
    answers = {q: "loan" if int(q[1:]) % wrong == 0 else c for q, c in expected.items()}
    rows = tables.rows(folder / "rows", **expected)
    step = Classification(models=[tables.model("m", **answers)], rows=rows, **settings)
    metrics = step.run(TestJob(folder / "job"))
    assert isinstance(metrics, Metrics)
    return metrics


def output(metrics: Metrics) -> Output:
    return Output("test", metrics, manifest("Metrics", metrics.meta, {}))


def f1(asked: range, wrong: int) -> float:
    expected = [EXPECTED[f"q{i}"] for i in asked]
    answers = ["loan" if i % wrong == 0 else EXPECTED[f"q{i}"] for i in asked]
    labels = sorted(set(expected))
    return float(f1_score(expected, answers, labels=labels, average="macro"))


def test_macro_f1_is_compared_by_the_stored_resamples(tmp_path: Path) -> None:
    before, after = judged(tmp_path / "a", range(60), 3), judged(tmp_path / "b", range(60), 5)
    facts = difference_of(before, after)["models"]["m"]["metrics"]["macro_f1"]
    values = [f1(range(60), wrong) for wrong in (3, 5)]
    assert facts["values"] == pytest.approx(values)
    assert facts["test"]["difference"] == pytest.approx(values[1] - values[0])
    low, high = facts["test"]["interval"]
    assert low < facts["test"]["difference"] < high
    assert facts["test"]["test"] == "paired bootstrap"
    text = compared(output(before), output(after))
    line = next(line for line in text.splitlines() if "macro_f1" in line)
    assert f"{100 * low:+.1f} to {100 * high:+.1f}" in line


def test_models_of_two_evaluations_are_compared_as_in_one(tmp_path: Path) -> None:
    """Each evaluation judged both models, and the test is of one from each."""
    rows = tables.rows(tmp_path / "rows", **EXPECTED)
    answers = {
        name: {q: "loan" if int(q[1:]) % wrong == 0 else c for q, c in EXPECTED.items()}
        for name, wrong in (("a", 3), ("b", 5))
    }
    models = [tables.model(name, **of) for name, of in answers.items()]
    sides = [
        Classification(models=models, rows=rows).run(TestJob(tmp_path / step)) for step in "xy"
    ]
    reports = [of.report() for of in sides]
    pairs = paired(
        *(by_model(of.predictions())[name] for of, name in zip(sides, "ab", strict=True))
    )
    (own,) = reports[0].pairs
    assert difference_between(pairs, "macro_f1", *reports) == own.metrics["macro_f1"]


def test_macro_f1_of_other_rows_is_not_compared(tmp_path: Path) -> None:
    """Its resamples are of other rows. The accuracy of the paired rows follows from the rows."""
    before, after = judged(tmp_path / "a", range(60), 3), judged(tmp_path / "b", range(20, 90), 5)
    data = difference_of(before, after)
    metrics = data["models"]["m"]["metrics"]
    assert metrics["accuracy"]["test"]["difference"] > 0
    assert metrics["macro_f1"]["test"] is None
    assert (
        "macro_f1 can't be compared: it isn't a mean over rows, and the rows aren't the same"
    ) in compared(output(before), output(after))


def test_a_stored_evaluation_without_resamples_is_not_compared(tmp_path: Path) -> None:
    """An earlier version of finery wrote it: without a version, resamples and probes."""
    before, after = judged(tmp_path / "a", range(60), 3), judged(tmp_path / "b", range(60), 5)
    file = before.file("metrics.json")
    stored = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({n: stored[n] for n in ("rows", "scores", "intervals", "details")}))
    metrics = difference_of(before, after)["models"]["m"]["metrics"]
    assert metrics["accuracy"]["test"] is not None
    assert "an earlier version of finery" in metrics["macro_f1"]["incomparable"]


def test_builds_are_compared_over_the_groups_of_the_evaluation(tmp_path: Path) -> None:
    """Forty paraphrases of four tickets: the test of `diff` is that of one evaluation of both."""
    content: list[dict[str, Any]] = [
        {"prompt": f"q{10 * n + i}", "completion": CLASSES[n % 3], "parents": [f"ticket {n}"]}
        for n in range(4)
        for i in range(10)
    ]
    table = dataset(tmp_path / "rows", content)
    right = {row["prompt"]: row["completion"] for row in content[:20]}
    before, after = tables.model("m"), tables.model("m", **right)
    other = tables.model("other", **right)
    results = [
        Classification(models=models, rows=table).run(TestJob(tmp_path / name))
        for name, models in (("a", [before]), ("b", [after]), ("both", [before, other]))
    ]
    (pair,) = results[2].report().data()["details"]["pairs"]
    metrics = difference_of(results[0], results[1])["models"]["m"]["metrics"]
    assert metrics["accuracy"]["test"]["test"] == "sign flips, exact"
    for metric in ("accuracy", "macro_f1"):
        test, own = metrics[metric]["test"], pair["metrics"][metric]
        assert test["p_value"] == own["p_value"] == 0.5
        assert test["interval"] == pytest.approx(own["interval"])


def test_equal_answers_have_no_difference(tmp_path: Path) -> None:
    both = [judged(tmp_path / name, range(60), 3) for name in "ab"]
    assert difference_of(*both)["changes"] == {}
    facts = difference_of(*both)["models"]["m"]["metrics"]["macro_f1"]
    assert facts["test"]["difference"] == 0
    assert facts["test"]["interval"] == pytest.approx(same_in_all(0, 60, -1, 1))
    assert facts["test"]["p_value"] == 1


def test_other_answers_with_the_same_score_are_no_change(tmp_path: Path) -> None:
    rows = tables.rows(tmp_path / "rows", **EXPECTED)
    sides = [
        Exact(models=[tables.model("m", **dict.fromkeys(EXPECTED, answer))], rows=rows).run(
            TestJob(tmp_path / answer)
        )
        for answer in ("wrong", "false")
    ]
    data = difference_of(*sides)
    assert data["models"]["m"]["answers_changed"] == len(EXPECTED)
    assert data["changes"] == {}
