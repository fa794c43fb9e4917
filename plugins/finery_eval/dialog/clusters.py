"""Scores of answers that come in groups, such as the turns of a conversation.

The answers of one group aren't independent of each other: a model that goes wrong in the first
turn of a conversation goes wrong in the next. So groups are drawn, and an interval is as wide as
their number makes it, however many answers they have.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finery_eval import stats
from finery_eval.verdicts import Hit, Judged, Score, Verdicts

Group = Sequence[int]
"""The answers of a group, by their number."""
Count = tuple[int, int]
"""(hits, answers that count) of a group, for one metric."""


def scores(judged: Judged, verdicts: Verdicts, groups: Sequence[Group]) -> dict[str, Score]:
    """Metric → (value, interval) of one model. A metric that applies to no answer is left out.

    Intervals: percentile bootstrap over groups (Efron and Tibshirani 1993). If a share is the same
    in all groups, such as 0 or 1, the bootstrap has no width. It then has the Wilson interval of
    as many answers as there are groups, with the same share of hits.
    """
    scored = _shares(judged.hits, groups)
    if verdicts.means is not None:
        names, statistic = verdicts.means
        values = statistic(Counter(judged.outcomes))
        outcomes = [tuple(judged.outcomes[i] for i in group) for group in groups]
        intervals = stats.bootstrap(outcomes, _ungrouped(statistic))
        scored |= dict(zip(names, zip(values, intervals, strict=True), strict=True))
    return {metric: scored[metric] for metric in verdicts.metrics if metric in scored}


def _ungrouped(
    statistic: Callable[[Mapping[Any, int]], Sequence[float]],
) -> Callable[[Mapping[Any, int]], Sequence[float]]:
    """The statistic of how often each outcome occurs, from how often each group does."""

    def of_groups(counts: Mapping[Any, int]) -> Sequence[float]:
        each: Counter[Any] = Counter()
        for group, n in counts.items():
            for outcome in group:
                each[outcome] += n
        return statistic(each)

    return of_groups


def _shares(hits: Mapping[str, Sequence[Hit]], groups: Sequence[Group]) -> dict[str, Score]:
    counts = [tuple(_count(of, group) for of in hits.values()) for group in groups]
    totals = [_total(column) for column in zip(*counts, strict=True)]
    shares = [right / n if n else 0.0 for right, n in totals]

    def statistic(drawn: Mapping[Any, int]) -> list[float]:
        sums = [0] * (2 * len(shares))
        for group, times in drawn.items():
            for i, (right, n) in enumerate(group):
                sums[2 * i] += times * right
                sums[2 * i + 1] += times * n
        # Without an answer that counts, a draw says nothing.
        return [
            sums[2 * i] / sums[2 * i + 1] if sums[2 * i + 1] else s for i, s in enumerate(shares)
        ]

    intervals = stats.bootstrap(counts, statistic)
    scored: dict[str, Score] = {}
    for i, metric in enumerate(hits):
        if totals[i][1]:
            used = sum(bool(count[i][1]) for count in counts)
            low, high = intervals[i]
            if low == high:
                low, high = stats.wilson(shares[i] * used, used)
            scored[metric] = shares[i], (low, high)
    return scored


def _count(hits: Sequence[Hit], group: Group) -> Count:
    counted = [hits[i] for i in group if hits[i] is not None]
    return sum(map(bool, counted)), len(counted)


def _total(counts: Sequence[Count]) -> Count:
    return sum(right for right, _ in counts), sum(n for _, n in counts)


def compare(correct: Mapping[str, Sequence[bool]], groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Each model against the first: difference of accuracy, interval and p-value.

    As `finery_eval.evaluator.compare`, with the bootstrap over groups and the exact sign-flip test.
    """
    (baseline, first), *others = correct.items()
    return [_compared(name, second, baseline, first, groups) for name, second in others]


def _compared(
    name: str,
    correct: Sequence[bool],
    baseline: str,
    base_correct: Sequence[bool],
    groups: Sequence[Group],
) -> dict[str, Any]:
    pairs = list(zip(correct, base_correct, strict=True))
    counts = [
        (sum(correct[i] for i in group) - sum(base_correct[i] for i in group), len(group))
        for group in groups
    ]
    ((low, high),) = stats.bootstrap(counts, _difference)
    if low == high:  # all groups differ alike
        low, high = _of_alike(low, len(groups))
    return {
        "model": name,
        "baseline": baseline,
        "difference": _difference(Counter(counts))[0],
        "interval": [low, high],
        "only_model": pairs.count((True, False)),
        "only_baseline": pairs.count((False, True)),
        "p_value": stats.sign_flip_exact([difference for difference, _ in counts]),
    }


def _difference(counts: Mapping[Count, int]) -> list[float]:
    answers = sum(times * n for (_, n), times in counts.items())
    return [sum(times * difference for (difference, _), times in counts.items()) / answers]


def _of_alike(difference: float, groups: int) -> stats.Interval:
    """An interval for a difference that is the same in all groups, from Wilson's.

    A bootstrap of equal groups has no width. Each group counts as one answer, and the difference,
    from -1 to 1, as the share of groups in which the model is the better one.
    """
    low, high = stats.wilson(groups * (difference + 1) / 2, groups)
    return 2 * low - 1, 2 * high - 1
