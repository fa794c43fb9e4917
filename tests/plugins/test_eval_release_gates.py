"""Gates against a release: how often they let a model pass that is worse by the margin."""

import math
import random
from collections.abc import Iterator
from functools import partial

import pytest
from scipy.optimize import minimize_scalar

from finery import UsageError
from finery.rows.report import Report
from finery_eval.measure import Measure, mean, pairs_of, scores_of
from finery_eval.requirements import parse, unchecked, unmet
from finery_eval.stats import not_worse_z
from finery_eval.verdicts import together

MODELS = ["gguf", "released"]
PAIRS, LEVEL = 500, 0.05


def lines(
    outcomes: list[tuple[bool, bool]], size: int = 1, part: int | None = None
) -> Iterator[dict[str, object]]:
    """Lines of `predictions.jsonl`: (released right, gguf right) of rows in groups of a size.

    part: how many rows of a group are broken where it is.
    """
    for number, (before, after) in enumerate(outcomes):
        for row in range(size):
            changes = part is None or row < part
            for model, right in (("released", before), ("gguf", after if changes else before)):
                group = {"group": str(number)} if size > 1 else {}
                yield {"id": f"{number}-{row}", "model": model, "prompt": "", "expected": "",
                       "correct": right, "values": {"accuracy": right}, **group}  # fmt: skip


def report_of(predictions: list[dict[str, object]]) -> Report:
    """The report of an evaluation with these answers."""
    values = {
        name: [line["correct"] for line in predictions if line["model"] == name] for name in MODELS
    }
    rows = [
        {"id": line["id"], "parents": [line["group"]] if "group" in line else []}
        for line in predictions
        if line["model"] == "gguf"
    ]
    measures = {"accuracy": Measure(values, together(rows))}
    return Report(rows=len(rows), pairs=pairs_of(MODELS, measures), headline=["accuracy"])


def passes(require: dict[str, str], predictions: list[dict[str, object]]) -> bool:
    """Whether a gate lets a model pass."""
    gates = parse(require, MODELS, ["accuracy"], releases=["released"])
    return not unmet(gates, report_of(predictions), lambda: predictions)


def drawn(
    generator: random.Random, count: int, lost: float, gained: float
) -> list[tuple[bool, bool]]:
    """Outcomes of rows or groups of which these shares are lost and gained."""
    kinds = [(True, False), (False, True), (True, True), (False, False)]
    rest = 1 - lost - gained
    return generator.choices(kinds, [lost, gained, rest / 2, rest / 2], k=count)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "size", "part", "margin", "gained"),
    [
        (120, 1, None, 0.02, 0.0),  # where the interval alone passes 8.9 %
        (500, 1, None, 0.02, 0.0),
        (500, 1, None, 0.01, 0.04),
        (1000, 1, None, 0.01, 0.0),
        (60, 4, None, 0.05, 0.0),
        (60, 4, 2, 0.05, 0.05),
    ],
)
def test_hardly_any_model_at_the_margin_passes(
    count: int, size: int, part: int | None, margin: float, gained: float
) -> None:
    """500 pairs of releases, the later of which is worse by exactly the margin."""
    generator = random.Random(7)
    weight = size / (part or size)
    gate = {"gguf.accuracy": f"not worse than released by {margin}"}
    passed = sum(
        passes(gate, [*lines(drawn(generator, count, (margin + gained) * weight, gained * weight),
                             size, part)])
        for _ in range(PAIRS)
    )  # fmt: skip
    assert passed <= LEVEL * PAIRS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "size", "part", "most"),
    [(200, 1, None, 0.02), (1294, 1, None, 0.02), (500, 1, None, 0.05), (100, 4, None, 0.05),
     (100, 4, 2, 0.05)],
)  # fmt: skip
def test_hardly_any_model_that_breaks_as_much_as_it_may_passes(
    count: int, size: int, part: int | None, most: float
) -> None:
    """500 pairs of releases, the later of which breaks exactly the share that is the limit."""
    generator = random.Random(7)
    weight = size / (part or size)
    gate = {"gguf.broken": f"<= {most}"}
    gates = parse(gate, MODELS, ["accuracy"], releases=["released"])
    drawings = (drawn(generator, count, most * weight, 0.1) for _ in range(PAIRS))
    evaluations = ([*lines(drawing, size, part)] for drawing in drawings)
    passed = sum(not unmet(gates, Report(), partial(list, each)) for each in evaluations)
    assert passed <= LEVEL * PAIRS


def test_the_score_test_decides_where_only_few_rows_are_lost() -> None:
    """A model that loses 2 % of the answers loses none of 120 in 8.9 % of cases."""
    outcomes = [(True, True)] * 60 + [(False, False)] * 60
    predictions = [*lines(outcomes)]
    gate = {"gguf.accuracy": "not worse than released by 0.02"}
    gates = parse(gate, MODELS, ["accuracy"])
    assert unmet(gates, report_of(predictions)) == []  # without the answers
    (line,) = unmet(gates, report_of(predictions), lambda: predictions)
    assert "Few rows differ, and the score test (Tango 1998)" in line
    assert passes(gate, [*lines(outcomes * 20)])


@pytest.mark.parametrize(
    ("gained", "lost", "n", "margin"),
    [(3, 5, 200, 0.03), (0, 2, 120, 0.02), (10, 4, 500, 0.01), (0, 0, 100, 0.05), (1, 1, 44, 0.1)],
)
def test_the_score_test_has_the_likeliest_variance_at_the_margin(
    gained: int, lost: int, n: int, margin: float
) -> None:
    """As if the difference were the margin: found by search instead of by the formula."""

    def misfit(gain: float) -> float:
        rest = 1 - 2 * gain - margin
        counts = ((gained, gain), (lost, gain + margin), (n - gained - lost, rest))
        return -sum(count * math.log(share) for count, share in counts if count)

    ends = (1e-12, (1 - margin) / 2 - 1e-12)
    gain = minimize_scalar(misfit, bounds=ends, method="bounded", options={"xatol": 1e-12}).x
    variance = (2 * gain + margin - margin**2) / n
    z = ((gained - lost) / n + margin) / math.sqrt(variance)
    assert not_worse_z(gained, lost, n, margin) == pytest.approx(z, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "problem", "fix"),
    [
        (">= 0.02", "must have an upper limit", 'write "<= 0.02"'),
        ("<= 2%", "a share of the rows above 0 and below 1", 'write "<= 0.02"'),
        ("<= 0", "must have an upper limit", 'write "<= 0.02"'),
        ("<= 0.02 against gguf", "compared with itself", "name another model"),
        ("<= 0.02 against bse", "'bse' is not one of", "released"),
    ],
)
def test_mistyped_limits(text: str, problem: str, fix: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse({"gguf.broken": text}, MODELS, ["accuracy"], releases=["released"])
    assert problem in str(raised.value)
    assert fix in (raised.value.fix or "")


def test_broken_needs_a_release_or_a_name() -> None:
    with pytest.raises(UsageError, match="compares with a release, and `models` names none"):
        parse({"gguf.broken": "<= 0.02"}, MODELS, ["accuracy"])
    parse({"gguf.broken": "<= 0.02 against released"}, MODELS, ["accuracy"])
    # A metric of the evaluator with that name is that metric.
    (own,) = parse({"gguf.broken": ">= 0.5"}, MODELS, ["accuracy", "broken"])
    assert own.subject == ("gguf", "broken")


def test_answers_without_right_and_wrong_have_none_broken() -> None:
    predictions = [{**line, "correct": None} for line in lines([(True, True)] * 300)]
    gates = parse({"gguf.broken": "<= 0.02"}, MODELS, ["accuracy"], releases=["released"])
    (line,) = unmet(gates, Report(rows=300), lambda: predictions)
    assert "gguf.broken isn't known: no answer of gguf and released is recorded as right" in line


def test_what_names_an_unreleased_model_is_not_checked() -> None:
    require = {
        "gguf.accuracy": "not worse than released by 0.01",
        "gguf.broken": "<= 0.02",
        "released.accuracy": ">= 0.5",
        "base.accuracy": ">= released.accuracy - 0.1",
        "base.broken": "<= 0.5 against gguf",
        "gguf.f1": "not worse than base by 0.01",
    }
    metrics, missing = ["accuracy", "f1"], {"released": "nothing is released as 'p' yet"}
    names = ["base", "gguf"]
    reasons = unchecked(require, missing, names, metrics)
    assert reasons == dict.fromkeys([*require][:4], missing["released"])
    several = {"a.broken": "<= 0.1 against b", "c.accuracy": ">= b.accuracy", "c.broken": "<= 2"}
    absent = {"a": "no a", "b": "no b"}
    assert unchecked(several, absent, ["c"], metrics) == {"a.broken": "no b", "c.accuracy": "no b"}
    with pytest.raises(UsageError, match="must have an upper limit"):
        parse(
            {"gguf.broken": f"not checked, since {missing['released']}: <= 0.02"}, MODELS, metrics
        )


def test_means_need_enough_differing_rows() -> None:
    """Numbers from 0 to 1 are tested by the bootstrap if many rows differ, else also by scores."""
    values = {"released": [1.0] * 200, "gguf": [0.5, *([1.0] * 199)]}
    measures = {"f": Measure(values, statistic=mean)}
    report = Report(rows=200, scores=scores_of(MODELS, measures), pairs=pairs_of(MODELS, measures),
                    statistics={"f": f"{mean.__module__}:mean"})  # fmt: skip
    predictions = [
        {"id": str(i), "model": model, "values": {"f": value}}
        for model in MODELS
        for i, value in enumerate(values[model])
    ]
    gates = parse({"gguf.f": "not worse than released by 0.01"}, MODELS, ["f"])
    assert unmet(gates, report) == []
    assert unmet(gates, report, lambda: predictions)
