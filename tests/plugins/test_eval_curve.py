"""`eval.curve`: more rows, more epochs, or a larger model?"""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Project
from hypothesis import given
from hypothesis import strategies as st
from showing import shown as shown_output
from tables import model, rows

from finery import Completion, DataError, Metrics, Model, UsageError
from finery.artifact.manifest import manifest
from finery.rows import Row
from finery.testing import run_step
from finery.views import Output, Plot
from finery_eval.evaluator import Evaluator
from finery_eval.steps.curve import Curve, growth, logistic
from finery_eval.steps.exact import Exact

pytestmark = pytest.mark.usefixtures("tables_answer")
PROMPTS = [f"q{i}" for i in range(120)]


def trained(name: str, size: int, right: int, **meta: Any) -> Model:
    """A model that was trained on some rows, and gets the first `right` of 120 right."""
    made = model(name, **dict.fromkeys(PROMPTS[:right], "yes"))
    made.meta |= {"rows": size, **meta}
    return made


def curve(folder: Path, *models: Model) -> dict[str, Any]:
    """What a curve says of models."""
    table = rows(folder, **dict.fromkeys(PROMPTS, "yes"))
    each = Exact(models=[], rows=table)
    metrics: Metrics = run_step(Curve(models=list(models), rows=table, each=each), folder / "out")
    report = metrics.report().data()
    assert report["details"]["tables"][-1]
    found: dict[str, Any] = report["details"]["curve"]
    return found


def test_growing_scores_say_that_more_rows_help(tmp_path: Path) -> None:
    found = curve(tmp_path, trained("a", 100, 40), trained("b", 200, 52), trained("c", 400, 64))
    assert found["growth"]["accuracy"]["a_doubling"] == pytest.approx(0.0991, abs=1e-4)
    assert found["growth"]["accuracy"]["expected"] == pytest.approx(0.6330, abs=1e-3)
    assert found["words"][0].startswith(
        "More rows help: 800 in place of 400 are expected to change accuracy by +9.9 points (95 % "
    )
    assert found["words"][0].endswith("), to about 63 %")
    assert found["words"][1].startswith("Whether more epochs would help isn't known")


def test_the_evaluator_says_how_long_answers_are(tmp_path: Path) -> None:
    each = Exact(models=[], rows=rows(tmp_path, a="yes"), max_tokens=80)
    models = [trained("a", 100, 40), trained("b", 200, 52)]
    Curve(models=models, rows=each.rows, each=each).check()


def test_a_flat_curve_says_what_else_to_try(tmp_path: Path) -> None:
    done = {"steps": 90, "best_step": 60, "eval_loss": 0.4}
    models = [trained("half", 200, 60, **done), trained("sft", 400, 61, **done)]
    words = curve(tmp_path / "a", *models)["words"]
    assert words[0].startswith("More rows aren't shown to help: ")
    assert words[1].endswith("best at step 60 of 90. So a larger model is the next thing to try")
    going = {"steps": 90, "best_step": 90, "eval_loss": 0.4}
    models = [trained("half", 200, 60, **going), trained("sft", 400, 61, **going)]
    words = curve(tmp_path / "b", *models)["words"]
    assert words[1].startswith("More epochs may help, so try them first: sft was best at its last")


def test_the_curve_is_a_logistic_regression() -> None:
    """Held against statsmodels, with the half answers that finery adds."""
    from statsmodels.api import GLM, add_constant
    from statsmodels.genmod.families import Binomial

    draw = random.Random(4)
    sizes = [60, 130, 260, 500]
    hits = [[draw.random() < 0.3 + 0.1 * i for _ in range(90)] for i in range(4)]
    grown = growth(sizes, hits, None)
    assert grown is not None
    counts = [[sum(of) + 0.5, 90 - sum(of) + 0.5] for of in hits]
    fitted = GLM(np.array(counts), add_constant(np.log2(sizes)), family=Binomial()).fit()
    for rows_, share, low, high in grown.line:
        (expected,) = fitted.predict([[1, np.log2(rows_)]])
        assert share == pytest.approx(expected, abs=1e-6)
        assert 0 < low < share < high < 1
    assert (grown.line[0].rows, grown.line[-1].rows) == (60, 1000)
    assert grown.expected == grown.line[-1].share
    before, after = fitted.predict([[1, np.log2(500)], [1, np.log2(1000)]])
    assert grown.a_doubling == pytest.approx(after - before, abs=1e-6)
    assert grown.interval[0] < grown.a_doubling < grown.interval[1]


def test_groups_of_rows_widen_the_interval() -> None:
    hits = [[i % 10 < right for i in range(100)] for right in (3, 5, 7)]
    in_groups = [[i for i in range(100) if i % 10 == k] for k in range(10)]
    alone, together = growth([1, 2, 4], hits, None), growth([1, 2, 4], hits, in_groups)
    assert alone is not None
    assert together is not None
    assert together.line == [
        of._replace(low=low, high=high)
        for of, (low, high) in zip(
            alone.line, [(of.low, of.high) for of in together.line], strict=True
        )
    ]
    widths = [grown.interval[1] - grown.interval[0] for grown in (alone, together)]
    assert widths[1] > 2 * widths[0]


@given(
    st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 50)), min_size=2, max_size=6).filter(
        lambda points: len({size for size, _ in points}) > 1
    )
)
def test_the_most_likely_curve_is_reached(points: list[tuple[int, int]]) -> None:
    """Where the likelihood is greatest, no answers are left over, at no end."""
    x = [math.log2(size / 2000) for size, _ in points]
    start, slope = logistic(x, [right for _, right in points], 50)
    left = [
        right + 0.5 - 51 / (1 + math.exp(-start - slope * each))
        for each, (_, right) in zip(x, points, strict=True)
    ]
    assert sum(left) == pytest.approx(0, abs=1e-3)
    assert sum(gap * each for gap, each in zip(left, x, strict=True)) == pytest.approx(0, abs=1e-3)


def shown(folder: Path) -> tuple[str, Plot]:
    """What `finery show` prints of a curve, and its plot."""
    table = rows(folder, **dict.fromkeys(PROMPTS, "yes"))
    models = [trained("a", 100, 40), trained("b", 200, 52), trained("c", 400, 64)]
    step = Curve(models=models, rows=table, each=Exact(models=[], rows=table))
    metrics: Metrics = run_step(step, folder / "out")
    output = Output("curve", metrics, manifest("Metrics", metrics.meta, {}))
    (plot,) = metrics.report().plots
    assert plot is not None
    return shown_output(output, 80), plot


def test_the_curve_is_plotted_with_its_line_and_interval(tmp_path: Path) -> None:
    text, plot = shown(tmp_path)
    plotted = text[text.index("┤") : text.index("x: training rows")]
    assert plotted.count("●") == 3 + 1  # the trainings, and the legend
    assert "⠒ fitted curve, with its 95 % CI   ● accuracy, with 95 % CI" in plotted
    assert "800" in plotted  # twice the rows
    fitted, scores = plot.series
    assert [rows for rows, _ in scores.points] == [100, 200, 400]
    assert [value for _, value in scores.points] == pytest.approx([1 / 3, 1.3 / 3, 1.6 / 3])
    assert all(low < value < high for (_, value), (_, low, high) in
               zip(scores.points, scores.band, strict=True))  # fmt: skip
    assert [len(fitted.points), fitted.points[-1][0]] == [len(fitted.band), 800]


class Polite(Evaluator):
    """Whether answers say yes, if they say anything."""

    def metric_names(self) -> list[str]:
        return ["polite"]

    def judge(self, row: Row, answer: Completion) -> dict[str, bool | None]:
        return {"polite": answer.text == "yes" if answer.text else None}


def test_a_model_whose_metric_applies_to_no_row_has_no_point(tmp_path: Path) -> None:
    table = rows(tmp_path, **dict.fromkeys(PROMPTS, "yes"))
    models = [trained("silent", 100, 0), trained("half", 200, 60)]
    step = Curve(models=models, rows=table, each=Polite(models=[], rows=table))
    report = run_step(step, tmp_path / "out").report()
    (points,) = [t.rows for t in report.tables if t.title == "Learning curve"]
    assert [point[1] for point in points] == ["half"]
    assert report.extra["curve"]["growth"] == {}


def test_models_without_a_number_of_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="how many rows x was trained on"):
        curve(tmp_path, trained("a", 100, 40), model("x"))
    with pytest.raises(DataError, match="all models were trained on 100 rows"):
        curve(tmp_path, trained("a", 100, 40), trained("b", 100, 41))
    table = rows(tmp_path / "t", q="yes")
    with pytest.raises(UsageError, match="`each` is missing"):
        Curve(models=[trained("a", 1, 1), trained("b", 2, 1)], rows=table).check()
    each = Exact(models=[], rows=table, require={"a.accuracy": "> 0.5"})
    with pytest.raises(UsageError, match="the evaluator in `each` can't have `require`") as caught:
        Curve(models=[trained("a", 1, 1), trained("b", 2, 1)], rows=table, each=each).check()
    assert caught.value.where == "each.require"


RECIPE = """\
finery: 1
name: t
data:
  all: {use: data.file, path: train.jsonl, format: alpaca}
  few: {use: data.sample, rows: all, n: 8}
models:
  small: {use: baseline.nearest, rows: few}
  large: {use: baseline.nearest, rows: all}
evaluate:
  curve: {use: eval.curve, models: [small, large], rows: all, each: {use: eval.exact}}
"""


def test_a_recipe_draws_the_curve_of_baselines(tmp_path: Path) -> None:
    """The answers of the nearest row of all rows are right; of a few, seldom."""
    lines = [{"instruction": f"what is {i}?", "output": f"number {i}"} for i in range(64)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    t = Project(tmp_path)
    ran = t.run("build")
    assert ran.code == 0, ran.err
    out = t.run("show", "curve").out
    assert "Learning curve" in out
    assert "More rows help: 128 in place of 64 are expected to change accuracy by +" in out
    assert "x: training rows" in out
    assert t.run("show", "curve", "--html", "page.html").code == 0
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.index("What twice the rows would add") < page.index("More tables")
    assert 'aria-label="accuracy by training rows"' in page
