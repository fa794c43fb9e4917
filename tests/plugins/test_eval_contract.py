"""An evaluator of a third party: a class with `judge`, and all that comes with it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy
import pytest
from showing import printed
from tables import model, rows

from finery import Completion, Job, Metrics, PluginError, RequirementError, StepError
from finery.rows import Row, answer_text
from finery.rows.report import Report, ReportTable
from finery.testing import TestJob
from finery_eval.evaluator import Better, Evaluator
from finery_eval.measure import Measure, Statistic
from finery_eval.stats import mean_macro_f1, wilson
from finery_eval.verdicts import Judging, Verdict
from finery_eval.view.difference import difference_of
from finery_eval.view.tables import scores

pytestmark = pytest.mark.usefixtures("tables_answer")
EXPECTED = {"a": "yes", "b": "no", "c": "yes", "d": "no"}


class Polar(Evaluator):
    """Yes or no: right, of which class, how far from the expected length, and short if it is no."""

    def metric_names(self) -> list[str]:
        return ["right", "f1", "short_no", "closeness", "length"]

    def unbounded(self) -> Mapping[str, Better]:
        return {"length": "lower"}

    def statistics(self) -> Mapping[str, Statistic]:
        return {"f1": mean_macro_f1}

    def judge(self, row: Row, answer: Completion) -> Mapping[str, Any]:
        expected, length = answer_text(row), len(answer.text)
        return {
            "right": answer.text == expected,
            "f1": [[expected, answer.text]],
            "short_no": length < 3 if expected == "no" else None,
            "closeness": 1 / (1 + abs(length - len(expected))),
            "length": float(length),
        }


def judged(folder: Path, *, step: type[Evaluator] = Polar, **answers: str) -> Metrics:
    """An evaluation of a model that is always right, and one that answers so."""
    models = [model("base", **EXPECTED), model("m", **answers)]
    metrics = step(models=models, rows=rows(folder, **EXPECTED)).run(TestJob(folder / "job"))
    assert isinstance(metrics, Metrics)
    return metrics


class Listing(Polar):
    """With a table in the report that it gives its verdicts."""

    def judging(self, job: Job, rows: Sequence[Row]) -> Judging:
        judge = super().judging(job, rows)
        own = Report(tables=[ReportTable("By label", ["label", "f1"], [["a", 0.5]])])
        return lambda answers: judge(answers)._replace(report=own)


def test_a_report_given_to_verdicts_keeps_its_tables(tmp_path: Path) -> None:
    report = judged(tmp_path, step=Listing, a="yes").report()
    assert [table.title for table in report.tables].count("By label") == 1


def test_values_become_scores_and_comparisons(tmp_path: Path) -> None:
    metrics = judged(tmp_path, a="yes", b="nope", c="no", d="no")
    report = metrics.report().data()
    scores, intervals = report["scores"]["m"], report["intervals"]["m"]
    assert scores["right"] == scores["short_no"] == 0.5
    assert tuple(intervals["right"]) == wilson(2, 4)
    assert tuple(intervals["short_no"]) == wilson(1, 2)  # of two rows that expect no
    assert scores["f1"] == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert scores["closeness"] == pytest.approx((1 + 1 / 3 + 1 / 2 + 1) / 4)
    assert scores["length"] == 2.75
    assert report["details"]["applies"] == {"base": {"short_no": 2}, "m": {"short_no": 2}}
    (pair,) = report["details"]["pairs"]
    assert pair["metrics"]["short_no"]["rows"] == 2
    paired = Measure({"a": [True] * 4, "b": [True, False, False, True]}).difference("a", "b")
    assert paired is not None
    assert pair["metrics"]["right"] == json.loads(msgspec.json.encode(paired))
    assert report["details"]["tables"][0]["columns"][1] == "right (points)"
    lines = list(metrics.predictions())
    assert [line["correct"] for line in lines if line["model"] == "m"] == [True, False, False, True]


def test_any_metric_of_two_builds_is_compared(tmp_path: Path) -> None:
    before = judged(tmp_path / "a", a="yes", b="nope", c="no", d="no")
    after = judged(tmp_path / "b", step=Polar, **EXPECTED)
    metrics = difference_of(before, after)["models"]["m"]["metrics"]
    (pair,) = before.report().data()["details"]["pairs"]
    for metric, of in metrics.items():
        assert of["test"]["p_value"] == pair["metrics"][metric]["p_value"]
        assert of["test"]["difference"] == pytest.approx(-pair["metrics"][metric]["difference"])


def test_a_metric_without_a_name_is_refused(tmp_path: Path) -> None:
    class Unnamed(Polar):
        """One metric more."""

        def judge(self, row: Row, answer: Completion) -> Mapping[str, Any]:
            return {**super().judge(row, answer), "other": True}

    with pytest.raises(StepError, match="`judge` returns 'other'"):
        judged(tmp_path, step=Unnamed)


def test_messages_say_how_many_rows_a_metric_applies_to(tmp_path: Path) -> None:
    metrics = judged(tmp_path, a="yes", b="nope", c="no", d="no")
    step = Polar(models=[model("base"), model("m")], rows=rows(tmp_path / "r", **EXPECTED))
    for text in (">= 0.9", "not worse than base by 0.1", "significantly better than 0.4"):
        step.require = {"m.short_no": text}
        with pytest.raises(RequirementError) as raised:
            step.verify({"": metrics})
        assert "2 rows" in str(raised.value.details)
        assert "4 rows" not in str(raised.value.details)
    assert "short_no: applies to 2 of 4 rows" in printed(scores({"": metrics.report()}))


class Returned(Evaluator):
    """Judges every answer with what `returns` is."""

    returns: ClassVar[Any] = None
    names: ClassVar[Any] = ["right", "words"]

    def metric_names(self) -> list[str]:
        names: list[str] = self.names
        return names

    def unbounded(self) -> Mapping[str, Better]:
        return {"words": "lower"}

    def judge(self, row: Row, answer: Completion) -> Mapping[str, Any]:
        returned: Mapping[str, Any] = self.returns
        return returned


def test_an_error_in_judge_names_the_row_and_the_line_of_the_plugin(tmp_path: Path) -> None:
    class Reads(Returned):
        """Reads the answer as JSON."""

        def judge(self, row: Row, answer: Completion) -> Mapping[str, Any]:
            return {"right": json.loads(answer.text)}  # which fails in a library

    with pytest.raises(StepError) as raised:
        judged(tmp_path, step=Reads)
    (first, *_) = rows(tmp_path, **EXPECTED)
    assert raised.value.where == f"Reads.judge, row {first['id']}"
    assert "JSONDecodeError" in raised.value.what
    assert "which fails in a library" in raised.value.details[0]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (None, "None as the values"), (({"right": True}, {}), "as the values"),
        (Verdict({}, "long"), "'long' as the facts"),  # type: ignore[arg-type]
        ({"right": 1.01}, "1.01 as 'right', which is not from 0 to 1"),
        ({"right": math.nan}, "nan as 'right', which is neither"),
        ({"right": "yes"}, "'yes' as 'right', which is neither"),
    ],
)  # fmt: skip
def test_what_judge_must_not_return_is_refused(tmp_path: Path, value: Any, problem: str) -> None:
    step = type("Wrong", (Returned,), {"returns": value, "__doc__": "Wrong."})
    with pytest.raises(StepError) as raised:
        judged(tmp_path, step=step)
    assert problem in raised.value.what
    assert raised.value.fix
    (first, *_) = rows(tmp_path, **EXPECTED)
    assert raised.value.where == f"Wrong.judge, row {first['id']}"


@pytest.mark.parametrize(
    ("value", "right"),
    [(numpy.True_, 1.0), (numpy.float32(0.5), 0.5), (numpy.int64(1), 1.0), (1 + 1e-12, 1.0)],
)
def test_numbers_of_numpy_and_rounding_errors_are_taken(
    tmp_path: Path, value: Any, right: float
) -> None:
    returns = {"right": value, "words": numpy.float64(12.5)}
    step = type("Scalars", (Returned,), {"returns": returns, "__doc__": "Scalars."})
    assert judged(tmp_path, step=step).report().data()["scores"]["m"] == {
        "right": right,
        "words": 12.5,
    }


@pytest.mark.parametrize("names", ["right", [], None, [1], ["right", " "], ["right", "right"]])
def test_wrong_names_of_metrics_are_refused_by_check(tmp_path: Path, names: Any) -> None:
    step = type("Misnamed", (Returned,), {"names": names, "__doc__": "Misnamed."})
    with pytest.raises(PluginError, match="`metric_names` of Misnamed"):
        step(models=[model("m")], rows=rows(tmp_path, **EXPECTED)).check()


def test_judge_gets_what_extract_captures(tmp_path: Path) -> None:
    models = [model("m", a="Well: yes", b="So: no", c="yes", d="no: yes")]
    step = Polar(models=models, rows=rows(tmp_path, **EXPECTED), extract=r": (\w+)")
    metrics = step.run(TestJob(tmp_path / "job"))
    assert [line["correct"] for line in metrics.predictions()] == [True, True, True, False]
    assert "ignore_case" not in Polar.__struct_fields__  # nothing in the contract obeys it


def test_a_metric_that_judge_never_returns_is_an_error(tmp_path: Path) -> None:
    class Forgetful(Polar):
        """Names `closeness`, and returns all others."""

        def judge(self, row: Row, answer: Completion) -> Mapping[str, Any]:
            values = super().judge(row, answer)
            return {metric: value for metric, value in values.items() if metric != "closeness"}

    with pytest.raises(StepError, match="never returns 'closeness', which") as caught:
        judged(tmp_path, step=Forgetful, a="yes")
    assert caught.value.where == "Forgetful.judge"


def test_a_statistic_without_a_digest_is_named_in_a_remark(tmp_path: Path) -> None:
    class Anonymous(Polar):
        """A lambda as a statistic."""

        def statistics(self) -> Mapping[str, Statistic]:
            return {"f1": lambda counts: mean_macro_f1(counts)}

    (remark,) = judged(tmp_path, step=Anonymous, a="yes").report().remarks
    assert remark.text.startswith("finery diff can't compare f1 of two builds: its statistic isn't")
    assert judged(tmp_path / "named", a="yes").report().remarks == []
