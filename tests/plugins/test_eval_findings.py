"""What a report says first: whether fine-tuning was needed, and what the shipped file loses."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import tables
from hypothesis import given
from hypothesis import strategies as st

from finery import Dataset, Metrics
from finery.artifact.manifest import manifest
from finery.builder.project import open_graph
from finery.rows.report import Comparison, Difference, Pair, Remark, Report, Score
from finery.views import Output
from finery_eval.measure import Measure, pairs_of
from finery_eval.predictions import facts_of, recorded
from finery_eval.steps.classification import Classification
from finery_eval.steps.exact import Exact
from finery_eval.steps.speed import P50, P95, PRICE, TIMED
from finery_eval.steps.structured import Json
from finery_eval.verdicts import together
from finery_eval.view.doubtful import doubtful_finding, doubtful_rows
from finery_eval.view.findings import (
    AS_GOOD,
    BEATS,
    BEST,
    CUT_OFF,
    FAST,
    FORGOTTEN,
    NEEDED,
    RAISE,
    REPLACES,
    SURE,
    findings,
    remarks_on,
)
from finery_eval.view.judgements import Judgement, Role, comparisons_of, judgements

ROWS = 200


def scored(values: dict[str, dict[str, float]]) -> dict[str, dict[str, Score]]:
    """The values as scores without intervals."""
    return {
        model: {name: Score(value) for name, value in of.items()} for model, of in values.items()
    }


def judged(
    model: str, role: Role, right: int, use: str = "eval.exact", rows: int = ROWS
) -> Judgement:
    """A model that is right on the first rows."""
    answers = [{"id": str(i), "expected": "x", "answer": "y", "values": {"accuracy": i < right}}
               for i in range(rows)]  # fmt: skip
    report = Report(rows=rows, scores=scored({model: {"accuracy": right / rows}}))
    source = "" if role in ("base", "baseline") else "sft"
    return Judgement(model, role, source, "test", use, report, answers)


def evaluator(folder: str, **settings: Any) -> Exact:
    """An evaluator of a recipe, with models and rows of its own."""
    return Exact(models=[tables.model(folder)], rows=Dataset(Path(folder)), **settings)


def answers(*models: Judgement) -> dict[str, tuple[str, str]]:
    """Question → (tone, answer)."""
    return {f.question: (f.tone, f.answer) for f in findings(models)}


@pytest.mark.parametrize(("base", "tuned", "tone", "start"), [
    (20, 150, "good", "Yes."), (150, 151, "open", "Not shown."),
    (150, 20, "bad", "No, sft is worse than prompted."),
    (100, 105, "open", "Not shown. On 200 answers, accuracy: prompted 50.0 %, sft 52.5 %: +2.5 "
     "points (95 % CI +0.1 to +4.8, p = 0.062), which may be chance."),
])  # fmt: skip
def test_whether_fine_tuning_was_needed(base: int, tuned: int, tone: str, start: str) -> None:
    prompted = judged("prompted", "base", base)._replace(source="base")
    found = answers(prompted, judged("sft", "tuned", tuned))[NEEDED]
    assert found[0] == tone
    assert found[1].startswith(start)


def test_a_lead_over_the_bare_base_does_not_show_that_fine_tuning_was_needed() -> None:
    base, sft = judged("base", "base", 0), judged("sft", "tuned", 150)
    tone, text = answers(base, sft)[NEEDED]
    assert tone == "open"
    assert text.startswith("Not known: sft was only compared with the bare base. On 200 answers")
    assert "prompt.model" in text
    assert answers(base, sft, judged("linear", "baseline", 20))[NEEDED][0] == "good"


def test_a_cheap_baseline_is_advised_only_for_classes() -> None:
    base, sft = judged("base", "base", 0), judged("sft", "tuned", 150)
    settings: dict[str, Any] = {"models": [tables.model("test")], "rows": Dataset(Path("test"))}
    for judge, is_advised in ((Exact, False), (Json, False), (Classification, True)):
        text = answers(base, sft._replace(evaluator=judge(**settings)))[NEEDED][1]
        assert "(prompt.model)" in text
        assert ("baseline.linear" in text) == is_advised


def test_the_exported_model_is_judged_where_a_recipe_trains_several() -> None:
    prompted = judged("prompted", "base", 150)._replace(source="base")
    exported = judged("sft", "tuned", 20)._replace(exported=True)
    found = answers(prompted, exported, judged("longer", "tuned", 190))[NEEDED]
    assert found[1].startswith("No, sft is worse than prompted.")


@pytest.mark.parametrize(("settings", "is_compared"), [
    ({}, True), ({"slices": ["length"]}, True), ({"max_tokens": 3}, False),
])  # fmt: skip
def test_two_evaluators_are_compared_if_their_settings_agree(
    settings: dict[str, Any], is_compared: bool
) -> None:
    """`sft` by one, the file by another, e.g. by `judge` of a check of its server."""
    sft = judged("sft", "tuned", 150)._replace(evaluator=evaluator("test"))
    file = judged("gguf", "shipped", 149, "serve.check")
    file = file._replace(step="served", evaluator=evaluator("served", **settings))
    (found,) = [of for question, of in answers(sft, file).items() if "as good" in question]
    start = "Yes, within" if is_compared else "Not measured: no evaluator judged sft on the rows of"
    assert found[1].startswith(start)


def test_the_p_value_is_that_of_the_tables() -> None:
    """Five rows are gained: p = 0.062 alone, 0.125 among two metrics, 0.188 among three models."""
    lost = Difference(0.0, (-0.02, 0.02), 1.0)
    gained = Difference(0.025, (0.002, 0.057), 0.0625)
    metrics = {"accuracy": gained, "valid": lost}
    compared = Comparison(
        0.025, (0.002, 0.057), 0.0625, model="sft", baseline="base", p_holm=0.1875
    )
    models = [judged("base", "base", 20), judged("linear", "baseline", 20)]
    for one in (models := [*models, judged("sft", "tuned", 25)]):
        one.report.headline, one.report.comparisons = [*metrics], [compared]
        one.report.pairs = [Pair("sft", "linear", metrics), Pair("sft", "base", metrics)]
    assert [(names, test.metric, test.p_holm) for names, test in comparisons_of(models)] == [
        ("base → sft", "accuracy", 0.1875), ("base → sft", "valid", 1.0),
        ("linear → sft", "accuracy", 0.125), ("linear → sft", "valid", 1.0),
    ]  # fmt: skip
    found = answers(*models)
    assert "p = 0.188 after Holm), which may be chance" in found[NEEDED][1]
    assert found[BEATS] == (
        "open",
        "Not shown. sft against linear, in points: no difference shown "
        "in accuracy (+2.5); equal in valid. p-values adjusted by Holm's method.",
    )


def test_the_p_value_of_the_metric_that_decides_is_the_same_in_each_table() -> None:
    """`show` compares one model by it, so it isn't adjusted; of the others, two are."""
    gained, little = (Difference(0.025, (0.002, 0.057), p) for p in (0.012, 0.03))
    metrics = {"accuracy": gained, "valid": little, "f1": little}
    compared = Comparison(0.025, (0.002, 0.057), 0.012, model="sft", baseline="base")
    models = [judged("base", "base", 20), judged("sft", "tuned", 25)]
    for one in models:
        one.report.headline, one.report.comparisons = [*metrics], [compared]
        one.report.pairs = [Pair("sft", "base", metrics)]
    tests = [test for _, test in comparisons_of(models)]
    assert [test.p_holm for test in tests] == [0.012, 0.06, 0.06]
    assert [test.verdict for test in tests] == ["better", "not shown", "not shown"]


def test_better_in_some_metrics_and_equal_in_the_others_is_better() -> None:
    lost, gained = Difference(0.0, (-0.02, 0.02), 1.0), Difference(0.5, (0.4, 0.6), 1e-9)
    metrics = {"accuracy": gained, "valid": lost}
    models = [judged("linear", "baseline", 20), judged("sft", "tuned", 120)]
    for one in models:
        one.report.headline, one.report.pairs = [*metrics], [Pair("sft", "linear", metrics)]
    tone, text = answers(*models)[BEATS]
    assert tone == "good"
    assert text.startswith(
        "Yes. sft against linear, in points: better in accuracy (+50.0); equal in valid."
    )


@pytest.mark.parametrize("is_first", [True, False])
def test_the_answers_of_the_server_decide_about_a_shipped_file(is_first: bool) -> None:
    sft = judged("sft", "tuned", 150)._replace(evaluator=evaluator("test"))
    exported = judged("gguf", "shipped", 149)
    exported = exported._replace(step="exported", evaluator=evaluator("exported"))
    served = judged("gguf", "shipped", 100, "serve.check")
    served = served._replace(step="served", evaluator=evaluator("served"))
    served.report.references = ["gguf in finery"]
    files = [exported, served] if is_first else [served, exported]
    found = answers(sft, *files)
    assert found[AS_GOOD][0] == "bad"
    assert "gguf 50.0 %" in found[AS_GOOD][1]
    assert found[AS_GOOD][1].endswith("These are the answers of the server.")
    tone, text = found["Is the shipped file as good as the trained model without the server?"]
    assert (tone, "gguf 74.5 %" in text) == ("good", True)


def test_the_best_untrained_model_is_the_one_to_beat() -> None:
    models = [
        judged("weak", "base", 0),
        judged("prompted", "base", 150),
        judged("sft", "tuned", 150),
    ]
    assert "prompted 75.0 %" in answers(*models)[NEEDED][1]


@pytest.mark.parametrize(("rows", "right", "shipped", "tone", "start"), [
    (200, 150, 150, "good", "Yes"), (200, 150, 100, "bad", "No."),
    (30, 20, 19, "open", "No loss is shown, but one of up to"),
])  # fmt: skip
def test_whether_the_shipped_file_is_as_good(
    rows: int, right: int, shipped: int, tone: str, start: str
) -> None:
    models = [
        judged("sft", "tuned", right, rows=rows),
        judged("gguf", "shipped", shipped, rows=rows),
    ]
    (found,) = [of for question, of in answers(*models).items() if "as good" in question]
    assert found[0] == tone
    assert found[1].startswith(start)


@pytest.mark.parametrize(("right", "tone", "start"), [
    (150, "good", "Yes, within 1.4 points."), (20, "bad", "No. On 200 answers"),
])  # fmt: skip
def test_what_replacing_an_api_gains_and_loses(right: int, tone: str, start: str) -> None:
    judges = judged("api", "base", 150), judged("sft", "tuned", right)
    values = {"api": {P50: 1.2, PRICE: 0.4}, "sft": {P50: 0.1, PRICE: 0.001}}
    report = Report(scores=scored(values), headline=[P50], extra={TIMED: {"apis": ["api"]}})
    timed = [each._replace(step="speed", report=report) for each in judges]
    found = answers(*judges, *timed)[REPLACES.format("sft", "api")]
    assert found[0] == tone
    assert found[1].startswith(start)
    gains = (
        "It is 12.0 times faster (100 ms at the median, not 1.2 s) and 400 times cheaper "
        "($0.001 per 1,000 answers, not $0.4)."
    )
    assert gains in found[1]
    assert not any("replace" in question for question in answers(*judges))
    pair = Pair("sft", "api", {P50: Difference(-1.1, (-2.5, 0.3), 0.093)})
    unsure = msgspec.structs.replace(report, rows=200, pairs=[pair])
    timed = [each._replace(step="speed", report=unsure) for each in judges]
    said = answers(*judges, *timed)[REPLACES.format("sft", "api")][1]
    assert "(100 ms at the median, not 1.2 s; this may be chance: p = 0.093)" in said


def test_speed_and_price_are_said_where_no_replacement_says_them() -> None:
    values = {"api": {P50: 0.9, P95: 1.2, PRICE: 1.1}, "gguf": {P50: 0.21, P95: 0.3}}
    report = Report(rows=50, scores=scored(values), extra={TIMED: {"apis": ["api"]}})
    timed = [judged(n, "base", 0)._replace(step="speed", report=report) for n in values]
    assert answers(*timed) == {
        FAST: (
            "info",
            "Median of 50 answers, one request at a time: gguf 210 ms (95 % within 300 ms); "
            "api (API) 900 ms (95 % within 1.2 s), $1.1 per 1,000 answers.",
        )
    }
    again = [each._replace(step="again") for each in timed]
    assert list(answers(*timed, *again)) == [f"{FAST[:-1]}, by {n}?" for n in ("speed", "again")]
    assert FAST not in answers(judged("api", "base", 9), judged("gguf", "shipped", 9), *timed)


def test_how_many_answers_are_probable_enough_is_said() -> None:
    values = {
        "head": {"coverage": 0.645, "selective_accuracy": 0.949},
        "onnx": {"coverage": 0.628, "selective_accuracy": 0.947},
        "unsure": {"coverage": 0.0},
    }
    report = Report(rows=121, scores=scored(values), extra={"abstain_below": 0.8})
    roles: dict[str, Role] = {"head": "tuned", "onnx": "shipped", "unsure": "base"}
    models = [judged(name, role, 0)._replace(report=report) for name, role in roles.items()]
    assert answers(*models)[SURE] == (
        "info",
        "Of 121 rows, at a probability of 0.8 or more: onnx answers 62.8 %, 94.7 % of these right; "
        "head answers 64.5 %, 94.9 % of these right; unsure answers 0.0 %.",
    )


def test_what_was_not_measured_is_said() -> None:
    found = answers(judged("base", "base", 10))
    assert [tone for tone, _ in found.values()] == ["open", "open", "open"]
    assert all(text.startswith("Not measured") for _, text in found.values())


def test_forgotten_abilities_are_found_where_they_are_measured() -> None:
    retention = "eval.retention"
    models = judged("base", "base", 180, retention), judged("sft", "tuned", 40, retention)
    report = models[1].report
    report.pairs = [Pair("sft", "base", {"solved": Difference(-0.7, (-0.76, -0.62), 0.0)})]
    report.remarks = [Remark("sft forgot: it solves 20.0 %", verdict="lost")]
    hot = answers(*models)
    assert hot[FORGOTTEN] == ("bad", "Yes: sft forgot: it solves 20.0 %.")
    assert hot[NEEDED][0] == "open"  # it isn't a test of the task
    report.remarks = [Remark("it is unclear whether sft forgot")]
    assert answers(*models)[FORGOTTEN][0] == "open"
    report.remarks = []
    tone, text = answers(*models)[FORGOTTEN]
    assert tone == "good"
    assert "sft against base, solved -70.0 points (95 % CI -76.0 to -62.0)" in text


def of_parents(model: str, role: Role, right: int, step: str = "test") -> Judgement:
    """A model that is right on all ten rows of the first of four parents."""
    one = judged(model, role, 10 * right, rows=40)
    lines = [{**line, "group": f"ticket {i // 10}"} for i, line in enumerate(one.answers)]
    return one._replace(answers=lines, step=step)


def test_rows_with_one_parent_are_one_piece_of_evidence() -> None:
    """Of four tickets with ten paraphrases each, two are solved: p = 0.5, on 40 rows."""
    base, tuned = of_parents("base", "base", 0), of_parents("sft", "tuned", 2)
    rows = [{"id": str(i), "parents": [f"ticket {i // 10}"]} for i in range(40)]
    hits = {
        one.model: [line["values"]["accuracy"] for line in one.answers] for one in (base, tuned)
    }
    pairs = pairs_of(list(hits), {"accuracy": Measure(hits, together(rows))})
    for one in (base, tuned):
        one.report.pairs = pairs
    ((_, test),) = comparisons_of([base, tuned])
    tone, text = answers(base, tuned)[NEEDED]
    assert tone == "open"
    assert text.startswith("Not shown. On 40 answers, accuracy: base 0.0 %, sft 50.0 %: +50.0 ")
    assert f"p = {test.difference.p_value:.3f}" in text
    assert test.difference.p_value == 0.5
    (best,) = findings([base, tuned._replace(role="base")], has_training=False)
    assert best.answer.startswith("Too close to call, by ")


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 9), max_size=2)), min_size=1))
def test_lines_are_grouped_as_their_rows(rows: list[tuple[int, list[int]]]) -> None:
    table = [{"id": f"r{number}", "parents": [f"r{p}" for p in of]} for number, of in rows]
    lines = [{"id": row["id"], **facts} for row, facts in zip(table, facts_of(table), strict=True)]
    assert recorded(lines) == recorded(lines, lines) == together(table)


@pytest.mark.parametrize(("second", "tone", "start"), [
    (100, "good", "linear, by accuracy on 200 rows: linear 75.0 %, nearest 50.0 %."),
    (149, "open", "Too close to call, by accuracy on 200 rows: linear 75.0 %, nearest 74.5 %."),
])  # fmt: skip
def test_a_recipe_that_trains_nothing_ranks_its_models(second: int, tone: str, start: str) -> None:
    models = [judged("nearest", "baseline", second), judged("linear", "baseline", 150)]
    (finding,) = findings(models, has_training=False)
    assert (finding.question, finding.tone) == (BEST, tone)
    assert finding.answer.startswith(start)
    assert "linear against nearest: +" in finding.answer


def test_files_of_a_judged_model_and_choices_in_a_ranking() -> None:
    head, linear = judged("head", "tuned", 190), judged("linear", "baseline", 150)
    onnx = judged("onnx", "shipped", 190)._replace(source="head")
    choice = Report(words=["chosen of 3: onnx"], extra={"chosen": "onnx", "margin": None})
    found = [
        *findings([linear, head, onnx, onnx._replace(step="threshold"),
                   onnx._replace(step="choice", role="variant", report=choice)],
                  has_training=False),
    ]  # fmt: skip
    by_choice, ranking, as_good = found
    assert (by_choice.question, by_choice.answer) == (
        f"{BEST[:-1]} by choice?",
        "chosen of 3: onnx.",
    )
    assert ranking.question == BEST
    assert "head against linear: +20.0 points" in ranking.answer
    assert (as_good.question, as_good.tone) == (AS_GOOD, "good")


CLASSIFIERS = """\
finery: 1
name: roles
models:
  encoder: {use: retrieve.embedder, path: encoder}
  linear: {use: baseline.linear, rows: rows}
  base: {use: local.model, path: base}
data: {rows: {use: data.file, path: rows.jsonl}}
train:
  head: {use: encoder.classify, model: encoder, rows: rows}
evaluate: {test: {use: eval.classification, models: [linear, head, onnx, base], rows: rows}}
export: {onnx: {use: onnx.export, model: head}}
"""


@pytest.mark.parametrize(("train", "roles"), [
    ("", ["baseline", "tuned", "shipped", "base"]),
    ("  sft: {use: trl.sft, model: base, rows: rows}\n", ["baseline", *["baseline"] * 2, "base"]),
])  # fmt: skip
def test_roles_of_classifiers(tmp_path: Path, train: str, roles: list[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(CLASSIFIERS.replace("evaluate:", f"{train}evaluate:"))
    graph = open_graph(path)
    names = ["linear", "head", "onnx", "base"]
    scores = {name: {"accuracy": Score(0.5)} for name in names}
    metrics = Metrics.write(tmp_path, Report(rows=2, scores=scores, baselines=names[:3]))
    outputs = [Output("test", metrics, manifest("Metrics", {}, {}), graph=graph)]
    assert [each.role for each in judgements(outputs, graph)] == roles


def test_remarks_name_each_model_that_is_not_beaten() -> None:
    models = [judged("base", "base", 0), judged("prompted", "base", 100),
              judged("linear", "baseline", 160), judged("sft", "tuned", 105)]  # fmt: skip
    assert [f"{remark.text}. {remark.advice}" for remark in remarks_on(models)] == [
        "sft is significantly better in accuracy than base (+52.5 points). ",
        "sft isn't shown to beat the untrained model prompted in accuracy: +2.5 points (95 % CI "
        "+0.1 to +4.8, p = 0.062). Judge more rows, or train longer or on more rows.",
        "sft is significantly worse than the baseline linear in accuracy (-27.5 points). Train "
        "longer or on more rows, or ship linear.",
    ]
    prompts = [each for each in models if each.role != "tuned"]
    (remark,) = remarks_on(prompts, has_training=False)
    assert remark.text.startswith("prompted is significantly worse than the baseline linear")
    assert remark.advice == "Improve the prompt, or ship linear."
    models[2].report.bundles = {"linear": "serve.bundle"}
    (remark,) = remarks_on(prompts, has_training=False)
    assert remark.advice == (
        "Improve the prompt, or ship linear: add linear-server: {use: serve.bundle, model: linear, "
        "name: linear, needs: [test]} to `export:`."
    )


def test_wrong_rows_come_before_a_longer_training() -> None:
    models = [judged("base", "base", 100), judged("sft", "tuned", 105)]
    for others in (models, [*models, judged("linear", "baseline", 160)]):
        for remark in remarks_on(others, mend="correct the labels that `finery show rows` lists"):
            assert remark.advice.startswith("Correct the labels that `finery show rows` lists")
    assert any("Train longer" in r.advice for r in remarks_on(others))


@pytest.mark.parametrize(("better", "tone"), [("higher", "bad"), ("lower", "good")])
def test_lower_values_can_be_better(better: str, tone: str) -> None:
    class Distance(Exact):
        def unbounded(self) -> dict[str, Any]:
            return {"accuracy": better}

    judge = Distance(models=[tables.model("test")], rows=Dataset(Path("test")))
    prompted = judged("prompted", "base", 150)._replace(source="base", evaluator=judge)
    sft = judged("sft", "tuned", 20)._replace(evaluator=judge)
    for each in (prompted, sft):
        each.report.unbounded = ["accuracy"]
    assert answers(prompted, sft)[NEEDED][0] == tone
    assert "accuracy: prompted 0.75, sft 0.1: -0.65 (95 % CI" in answers(prompted, sft)[NEEDED][1]


def test_answers_that_were_cut_off_come_first() -> None:
    """More training doesn't help a model whose answers are cut off."""
    sft = judged("sft", "tuned", 105)
    cut = [{**of, "correct": i < 105, "finish_reason": "stop" if i < 150 else "length"}
           for i, of in enumerate(sft.answers)]  # fmt: skip
    models = [judged("base", "base", 100), judged("linear", "baseline", 160)]
    first, *others = remarks_on([*models, sft._replace(answers=cut)])
    assert first.text == "50 of 200 answers of sft were cut off at max_tokens"
    assert [remark.advice for remark in (first, *others)] == [RAISE] * 3
    found = next(findings([*models, sft._replace(answers=cut)]))
    assert (found.question, found.tone) == (CUT_OFF, "bad")
    assert found.answer.startswith("Yes: 50 of 200 answers of sft by test.")
    of_base = [{**of, "correct": False} for of in cut]
    both = [models[0]._replace(answers=of_base), models[1], sft._replace(answers=cut)]
    assert next(remarks_on(both)).text == first.text  # an untrained model often talks on
    (alone,) = [each for each in remarks_on(both[:1], has_training=False) if "cut" in each.text]
    assert alone.text == "50 of 200 answers of base were cut off at max_tokens"
    right = [{**of, "correct": True} for of in cut]
    assert next(findings([*models, sft._replace(answers=right)])).question != CUT_OFF


def answering(model: str, role: Role, answers: str, expected: str, source: str = "") -> Judgement:
    """A model with a letter for each row: its answer, `-` for none that can be read."""
    lines = [
        {"id": str(n), "expected": want, "prediction": None if got == "-" else got,
         "correct": got == want}
        for n, (got, want) in enumerate(zip(answers, expected, strict=True))
    ]  # fmt: skip
    report = Report(rows=len(lines), scores=scored({model: {"accuracy": 0.5}}))
    return Judgement(model, role, source, "test", "eval.classification", report, lines)


def test_rows_to_which_all_good_models_give_the_same_other_label_are_doubtful() -> None:
    right = "xxxyyyzzzx"
    base = answering("base", "base", "zzzzzzzzzz", right)  # right on too few rows to count
    sft = answering("sft", "tuned", "yxxyyyzz-x", right)
    linear = answering("linear", "baseline", "yyxyyyzz-z", right)
    gguf = answering("gguf", "shipped", "yxxyyyzz-x", right, source="sft")
    (found,) = doubtful_rows([base, sft, linear, gguf])
    assert [(facts["id"], facts["prediction"]) for facts in found.answers] == [("0", "y")]
    assert found.models == ["sft", "linear"]
    (finding,) = doubtful_finding([base, sft, linear, gguf])
    assert finding.answer.startswith(
        "Perhaps not: for 1 row of test, sft, linear give the same answer, which isn't the label"
    )
    assert not list(doubtful_rows([base, sft, gguf]))  # one model and its file are no two
    assert not list(doubtful_rows([sft, answering("linear", "baseline", right, right)]))
