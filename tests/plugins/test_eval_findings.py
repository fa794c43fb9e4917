"""What a report says first: whether fine-tuning was needed, and what the shipped file loses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery_eval.measure import Measure, pairs_of
from finery_eval.predictions import facts_of, recorded
from finery_eval.tables import remark
from finery_eval.verdicts import together
from finery_eval.view.findings import (
    BEST,
    FORGOTTEN,
    NEEDED,
    Judgement,
    Role,
    comparisons_of,
    findings,
)

ROWS = 200


def judged(
    model: str, role: Role, right: int, use: str = "eval.exact", rows: int = ROWS
) -> Judgement:
    """A model that is right on the first rows."""
    answers = [{"id": str(i), "expected": "x", "answer": "y", "values": {"accuracy": i < right}}
               for i in range(rows)]  # fmt: skip
    scores = {model: {"accuracy": right / rows}}
    report = {"rows": rows, "scores": scores, "intervals": {}, "details": {}}
    return Judgement(model, role, "sft" if role == "shipped" else "", "test", use, report, answers)


def answers(*models: Judgement) -> dict[str, tuple[str, str]]:
    """Question → (tone, answer)."""
    return {f.question: (f.tone, f.answer) for f in findings(models)}


@pytest.mark.parametrize(("base", "tuned", "tone", "start"), [
    (20, 150, "good", "Yes."), (150, 151, "open", "Not shown."),
    (150, 20, "bad", "No, the training made it worse."),
])  # fmt: skip
def test_whether_fine_tuning_was_needed(base: int, tuned: int, tone: str, start: str) -> None:
    found = answers(judged("base", "base", base), judged("sft", "tuned", tuned))[NEEDED]
    assert found[0] == tone
    assert found[1].startswith(start)


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


def test_what_was_not_measured_is_said() -> None:
    found = answers(judged("base", "base", 10))
    assert [tone for tone, _ in found.values()] == ["open", "open", "open"]
    assert all(text.startswith("Not measured") for _, text in found.values())


def test_forgotten_abilities_are_found_where_they_are_measured() -> None:
    retention = "eval.retention"
    models = judged("base", "base", 180, retention), judged("sft", "tuned", 40, retention)
    difference = {"difference": -0.7, "interval": [-0.76, -0.62], "p_value": 0.0}
    pair = {"model": "sft", "baseline": "base", "metrics": {"solved": difference}}
    details = models[1].report["details"]
    loss = remark("sft forgot: it solves 20.0 %") | {"verdict": "lost"}
    details |= {"pairs": [pair], "remarks": [loss]}
    hot = answers(*models)
    assert hot[FORGOTTEN] == ("bad", "Yes: sft forgot: it solves 20.0 %.")
    assert hot[NEEDED][0] == "open"  # it isn't a test of the task
    details["remarks"] = [remark("it is unclear whether sft forgot", warning=False)]
    assert answers(*models)[FORGOTTEN][0] == "open"
    details["remarks"] = []
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
        one.report["details"]["pairs"] = pairs
    (comparison,) = comparisons_of([base, tuned])
    tone, text = answers(base, tuned)[NEEDED]
    assert tone == "open"
    assert text.startswith("Not shown. On 40 answers, accuracy: base 0.0 %, sft 50.0 %: +50.0 ")
    assert f"p = {comparison.difference.p_value:.3f}" in text
    assert comparison.difference.p_value == 0.5
    (best,) = findings([base, tuned._replace(role="base")], has_training=False)
    assert best.answer.startswith("Too close to call.")


@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 9), max_size=2)), min_size=1))
def test_lines_are_grouped_as_their_rows(rows: list[tuple[int, list[int]]]) -> None:
    table = [{"id": f"r{number}", "parents": [f"r{p}" for p in of]} for number, of in rows]
    lines = [{"id": row["id"], **facts} for row, facts in zip(table, facts_of(table), strict=True)]
    assert recorded(lines) == recorded(lines, lines) == together(table)


@pytest.mark.parametrize(("second", "tone", "start"), [
    (100, "good", "linear. accuracy on 200 rows: linear 75.0 %, nearest 50.0 %."),
    (149, "open", "Too close to call. accuracy on 200 rows: linear 75.0 %, nearest 74.5 %."),
])  # fmt: skip
def test_a_recipe_that_trains_nothing_ranks_its_models(second: int, tone: str, start: str) -> None:
    models = [judged("nearest", "baseline", second), judged("linear", "baseline", 150)]
    (finding,) = findings(models, has_training=False)
    assert (finding.question, finding.tone) == (BEST, tone)
    assert finding.answer.startswith(start)
    assert "linear against nearest: +" in finding.answer
