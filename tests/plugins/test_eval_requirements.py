"""`require:` of the evaluators."""

import json
from typing import Any

import pytest
import yaml
from conftest import MakeProject
from scipy.stats import binom

from finery import UsageError
from finery.rows.report import Report, Score
from finery_eval.measure import Measure, pairs_of, scores_of
from finery_eval.planning import chance_to_pass, enough_rows
from finery_eval.requirements import Requirement, doubts_about, parse, unmet

MODELS = ["base", "sft", "gguf.q8_0"]
METRICS = ["accuracy", "macro_f1", "priority"]


def report(**accuracy: float) -> Report:
    """A report with these accuracies of 100 rows."""
    scores = {n: {"accuracy": Score(v, (v - 0.05, v + 0.05))} for n, v in accuracy.items()}
    return Report(rows=100, scores=scores)


def lines(require: dict[str, str], **accuracy: float) -> list[str]:
    """What of `require` isn't met."""
    return unmet(parse(require, MODELS, METRICS), report(**accuracy))


@pytest.mark.parametrize(
    ("text", "ok"),
    [
        (">= 0.9", True), (">=.9", True), ("> 0.9", False), ("<= 0.9", True), ("< 0.9", False),
        (">= base.accuracy + 0.3", True), (">=base.accuracy+0.3", True),
        (">= base.accuracy + 0.31", False), ("> base.accuracy", True),
        ("<= base.accuracy - 0.1", False), ("< 1", True), (">= 1", False),
    ],
)  # fmt: skip
def test_comparisons(text: str, ok: bool) -> None:
    """0.6 + 0.3 is 0.8999… in floating point, and still reached by 0.9."""
    assert (not lines({"sft.accuracy": text}, base=0.6, sft=0.9)) == ok


def test_rounding_does_not_fail_a_requirement() -> None:
    assert 0.1 + 0.2 > 0.3
    assert not lines({"sft.accuracy": ">= base.accuracy + 0.2"}, base=0.1, sft=0.3)
    assert lines({"sft.accuracy": "> base.accuracy + 0.2"}, base=0.1, sft=0.3)


def test_a_models_name_may_hold_dots() -> None:
    found = parse({"gguf.q8_0.accuracy": ">= gguf.q8_0.priority - 0.1"}, MODELS, METRICS)[0]
    assert isinstance(found, Requirement)
    assert found.subject == ("gguf.q8_0", "accuracy")
    assert (found.of, found.number) == (("gguf.q8_0", "priority"), -0.1)


def test_what_is_unmet_is_told_with_figure_interval_and_bound() -> None:
    require = {"sft.accuracy": ">= base.accuracy + 0.3", "base.accuracy": ">= 0.1"}
    assert lines(require, base=0.5, sft=0.75) == [
        "sft.accuracy is 0.75 (95 % CI 0.700 to 0.800, 100 rows); required >= base.accuracy + 0.3 "
        "= 0.8 (base.accuracy is 0.5 (95 % CI 0.450 to 0.550, 100 rows))"
    ]


@pytest.mark.parametrize(
    ("key", "text", "what", "fix"),
    [
        ("sft.acuracy", ">= 0.8", "no metric 'acuracy'", "did you mean 'accuracy'?"),
        ("stf.accuracy", ">= 0.8", "'stf' is not one of", "did you mean 'sft'?"),
        ("accuracy", ">= 0.8", "must name a model and its metric", "base.accuracy"),
        ("sft.accuracy", ">= 85", "85 can't be reached", "write 0.85"),
        ("sft.accuracy", "0.8", "must be a comparison", '">= 0.8"'),
        (
            "sft.accuracy",
            "not worse than base",
            "in words must be",
            '"not worse than base by 0.03"',
        ),
        (
            "sft.accuracy",
            "not worse than base by 3 points",
            "in words must be",
            '"not worse than base by 0.03"',
        ),
        ("sft.accuracy", "not worse than base by 3", "margin must be a share", "base by 0.03"),
        ("sft.accuracy", "not worse than bse by 0.03", "not one of the step's models", "base"),
        ("sft.accuracy", "not worse than sft by 0.03", "with itself", "e.g. base"),
        ("sft.accuracy", "significantly better than base.priority", "same metric", "write base"),
    ],
)
def test_mistakes_are_explained(key: str, text: str, what: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse({key: text}, MODELS, METRICS)
    assert what in caught.value.what
    assert fix in (caught.value.fix or "")
    assert caught.value.where == f"require: {key}: {text!r}"


# -- requirements that rest on a test ------------------------------------------------------------


def judged(**right: str) -> Report:
    """The report of models with `1` and `0` for right and wrong answers to the same rows."""
    hits = {name: [mark == "1" for mark in marks] for name, marks in right.items()}
    names, measures = list(hits), {"accuracy": Measure(hits)}
    rows = len(next(iter(hits.values())))
    return Report(rows=rows, scores=scores_of(names, measures), pairs=pairs_of(names, measures))


def claimed(text: str, models: list[str], **right: str) -> list[str]:
    """What of a requirement on the accuracy of the last model isn't met."""
    return unmet(parse({f"{models[-1]}.accuracy": text}, models, ["accuracy"]), judged(**right))


def test_a_lucky_score_is_no_proof_that_a_model_is_not_worse() -> None:
    """On 20 rows the file is even better than the model, and may still be much worse."""
    sft, gguf = "1" * 17 + "000", "1" * 18 + "00"
    assert not unmet(parse({"gguf.accuracy": ">= 0.85"}, ["sft", "gguf"], ["accuracy"]),
                     judged(sft=sft, gguf=gguf))  # fmt: skip
    (line,) = claimed("not worse than sft by 0.03", ["sft", "gguf"], sft=sft, gguf=gguf)
    assert line.startswith("gguf.accuracy against sft: +5.0 points (95 % CI ")
    assert "required: not worse by 3 points. It may be up to " in line
    assert "20 rows don't show that it isn't. If it stays like this, about " in line


def test_enough_rows_show_that_a_model_is_not_worse() -> None:
    sft, same = "1" * 1700 + "0" * 300, "1" * 1695 + "0" * 300 + "1" * 5
    assert not claimed("not worse than sft by 0.03", ["sft", "gguf"], sft=sft, gguf=same)
    text = "not worse than gguf.accuracy by 0.03"
    assert not claimed(text, ["gguf", "sft"], sft=same, gguf=sft)


def test_a_model_that_is_worse_is_called_worse() -> None:
    sft, bad = "1" * 900 + "0" * 100, "1" * 800 + "0" * 200
    (line,) = claimed("not worse than sft by 0.03", ["sft", "gguf"], sft=sft, gguf=bad)
    assert line.endswith("required: not worse by 3 points. It is worse by more than that")


def test_significantly_better_needs_more_than_a_better_score() -> None:
    base, lucky, good = "1" * 10 + "0" * 10, "1" * 13 + "0" * 7, "1" * 19 + "0"
    text = "significantly better than base"
    assert not claimed(text, ["base", "sft"], base=base, sft=good)
    (line,) = claimed(text, ["base", "sft"], base=base, sft=lucky)
    assert "+15.0 points" in line
    assert "p = 0.25; required: significantly better. Such a difference can be luck" in line
    (line,) = claimed(text, ["base", "sft"], base=good, sft=base)
    assert line.endswith("It isn't better on these rows")


def test_a_score_is_held_against_a_number_by_its_interval() -> None:
    text = "significantly better than 0.85"
    (line,) = claimed(text, ["sft"], sft="1" * 18 + "00")
    assert "sft.accuracy is 0.9 (95 % CI 0.699 to 0.972, 20 rows)" in line
    assert "A score like this can be luck with 20 rows. If it stays like this, about " in line
    assert not claimed(text, ["sft"], sft="1" * 180 + "0" * 6)


def test_several_significant_differences_are_adjusted() -> None:
    """p = 0.03 is enough alone, but not as one of two."""
    better = {"base": "0" * 6 + "1" * 14, "sft": "1" * 20}  # p = 2 / 2**6
    text = "significantly better than base"
    assert not claimed(text, ["base", "sft"], **better)
    require = {"sft.accuracy": text, "other.accuracy": text}
    both = parse(require, ["base", "sft", "other"], ["accuracy"])
    lines = unmet(both, judged(**better, other="0" * 6 + "1" * 14))
    assert "p = 0.062 after Holm" in lines[0]
    assert len(lines) == 2


def test_a_requirement_that_proves_little_comes_with_one_to_paste() -> None:
    report = judged(base="0" * 20, sft="1" * 20)
    (line,) = doubts_about(parse({"sft.accuracy": "> base.accuracy"}, MODELS, METRICS), report, ())
    _, _, better = line.partition("so one row is enough. Write ")
    assert better == 'sft.accuracy: "significantly better than base"'
    parse(yaml.safe_load(better), MODELS, METRICS)
    for text in (">= 0", "> sft.priority"):
        report.scores["sft"]["priority"] = Score(0.0)
        (line,) = doubts_about(parse({"sft.accuracy": text}, MODELS, METRICS), report, ())
        assert line.endswith(". Write another number")


# -- metrics that are no shares ------------------------------------------------------------------

UNBOUNDED = {"perplexity": "lower", "margin": "higher"}


def free(**require: str) -> list[Any]:
    """What is required of metrics without bounds, `metric=text`."""
    keyed = {f"sft.{metric}": text for metric, text in require.items()}
    return list(parse(keyed, ["base", "sft"], list(UNBOUNDED), unbounded=UNBOUNDED))


@pytest.mark.parametrize(("metric", "text", "number", "ok"), [
    ("perplexity", "<= 25", 25, True), ("perplexity", "<= base.perplexity + 2", 2, True),
    ("perplexity", "< 20.5", 20.5, False), ("margin", ">= 2", 2, True),
    ("margin", "> -0.5", -0.5, True), ("margin", "<= base.margin - 7", -7, False),
])  # fmt: skip
def test_metrics_without_bounds_take_any_number(
    metric: str, text: str, number: float, ok: bool
) -> None:
    (requirement,) = free(**{metric: text})
    assert requirement.number == number
    values = {"base": {"perplexity": 19.0, "margin": 4.0}, "sft": {"perplexity": 20.5, "margin": 3}}
    scores = {model: {m: Score(v) for m, v in of.items()} for model, of in values.items()}
    assert requirement.met(Report(scores=scores)) == ok


def test_a_gate_that_luck_passes_is_told_before_and_after_a_build(built: MakeProject) -> None:
    """18 of 20 pass `>= 0.85`, and so does a model of 75 % in more than one case of five."""
    chance, worse = chance_to_pass(0.85, 20)
    assert chance == pytest.approx(binom.sf(16, 20, 0.75))
    assert worse == 0.75
    assert chance_to_pass(0.85, enough_rows(0.85))[0] <= 0.05
    recipe = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: rows.jsonl, format: alpaca}
  train: {use: data.file, path: train.jsonl, format: alpaca}
models:
  cheap: {use: baseline.majority, rows: train}
evaluate:
  test: {use: eval.exact, models: cheap, rows: rows, require: {cheap.accuracy: ">= 0.85"}}
"""
    lines = [{"instruction": f"{i}", "output": "no" if i < 18 else "yes"} for i in range(20)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    t = built({"recipe.yaml": recipe, "rows.jsonl": text, "train.jsonl": text})
    notes = json.loads(t.run("check", "--json").out)["notes"]
    (note,) = (n for n in notes if n["name"] == "lucky-gate")
    assert "cheap.accuracy >= 0.85 on 20 rows: a model that is right in 75 %" in note["text"]
    assert "probability of 23 %. The interval of its score is 70 to 97 %" in note["text"]
    assert 'cheap.accuracy: "significantly better than 0.85"' in note["fix"]
