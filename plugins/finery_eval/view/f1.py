"""Macro-F1 of two evaluations on the same rows, from the answers that `predictions.jsonl` has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finery_eval import stats
from finery_eval.view.pairs import Facts, Tested, groups_of

MACRO_F1 = "macro_f1"
INVALID = "(invalid)"
"""Stands for the class of an answer that names none."""
SLACK = 1e-9
Outcome = tuple[tuple[str, str], ...]
"""(expected, predicted) of each field of an answer; of an answer without fields, one pair."""
Unit = tuple[tuple[Outcome, Outcome], ...]
"""The outcomes (first, second) of answers that aren't independent of each other."""


def f1_test(
    pairs: Sequence[tuple[Facts, Facts]],
    metric: str,
    answers: Sequence[Sequence[Facts]],
    values: Sequence[float],
) -> Tested | None:
    """The difference of a macro-F1 on paired answers, with its bootstrap interval and p-value.

    answers, values: all answers of each side, and the scores that were reported of them. None if
    the metric is none, or if its scores don't follow from the answers.
    """
    field = _field_of(metric)
    if field is None:
        return None
    for side, value in zip(answers, values, strict=True):
        outcomes = [of for facts in side if (of := _outcome(facts, field)) is not None]
        if not outcomes or len(outcomes) < len(side):
            return None
        if abs(_f1(Counter(outcomes)) - value) > SLACK:
            return None
    units = [
        tuple((_known(pairs[i][0], field), _known(pairs[i][1], field)) for i in group)
        for group in groups_of(pairs) or [[i] for i in range(len(pairs))]
    ]
    if not units:
        return None

    def difference(counts: Mapping[Unit, int]) -> list[float]:
        sides: tuple[Counter[Outcome], Counter[Outcome]] = Counter(), Counter()
        for unit, n in counts.items():
            for pair in unit:
                for side, outcome in zip(sides, pair, strict=True):
                    side[outcome] += n
        return [_f1(sides[1]) - _f1(sides[0])]

    (drawn,) = stats.resampled(units, difference)
    (value,) = difference(Counter(units))
    interval = stats.interval_of(drawn, len(units), stats.GAIN)
    differing = sum(any(first != second for first, second in unit) for unit in units)
    p_value = stats.bootstrap_p(drawn, differing)
    return Tested(value, interval, p_value, None, None, "paired bootstrap")


def _field_of(metric: str) -> str | None:
    """The field whose macro-F1 a metric is, empty for that of all; None for any other metric."""
    if metric == MACRO_F1:
        return ""
    field = metric.removesuffix(f"_{MACRO_F1}")
    return field if field != metric else None


def _outcome(facts: Facts, field: str) -> Outcome | None:
    """What an answer counts as; None where the facts don't say it."""
    expected, predicted = facts.get("expected"), facts.get("prediction")
    if isinstance(expected, str) and not field:
        return ((expected, _label(predicted)),)
    if not isinstance(expected, dict) or not isinstance(predicted, dict):
        return None
    names = [field] if field else list(expected)
    if not all(isinstance(expected.get(name), str) for name in names):
        return None
    return tuple((expected[name], _label(predicted.get(name))) for name in names)


def _known(facts: Facts, field: str) -> Outcome:
    outcome = _outcome(facts, field)
    assert outcome is not None  # all answers of both sides have one
    return outcome


def _label(predicted: Any) -> str:
    return predicted if isinstance(predicted, str) else INVALID


def _f1(counts: Mapping[Outcome, int]) -> float:
    """The mean of the macro-F1 of each field."""
    fields = len(next(iter(counts)))
    scores = []
    for i in range(fields):
        pairs: Counter[tuple[str, str]] = Counter()
        for outcome, n in counts.items():
            pairs[outcome[i]] += n
        scores.append(stats.macro_f1(pairs))
    return sum(scores) / fields
