"""Models compared in pairs, for evaluators whose metrics aren't all shares of the same rows.

In go values of each row, out come scores with intervals, and the difference of every two models.
Public for other plugins.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from finery_eval import stats

Score = tuple[float, stats.Interval]
AnyScore = tuple[float, stats.Interval | None]
"""A score, whose interval is None where nothing bounds it."""
Weighted = tuple[float, float]


class Hits(NamedTuple):
    """A metric that is a share of rows. by_model: model → whether each row counts."""

    by_model: Mapping[str, Sequence[bool]]

    def score(self, model: str) -> Score:
        """The share and its Wilson interval."""
        hits = self.by_model[model]
        return sum(hits) / len(hits), stats.wilson(sum(hits), len(hits))

    def difference(self, first: str, second: str) -> dict[str, Any]:
        """Second minus first: Newcombe's paired interval and the exact McNemar test."""
        pairs = list(zip(self.by_model[first], self.by_model[second], strict=True))
        gained, lost = pairs.count((False, True)), pairs.count((True, False))
        value, interval = stats.paired_difference(
            pairs.count((True, True)), gained, lost, pairs.count((False, False))
        )
        return _facts(value, interval, stats.mcnemar_exact(gained, lost))


class Values(NamedTuple):
    """A metric that is a weighted mean over rows, or follows from one.

    by_model: model → (weighted value, weight) of each row. of_mean: the metric as a monotonic
    function of the mean. within: what the metric can be; infinite ends are allowed. is_continuous:
    whether two models have exactly equal values only if they are the same, as with likelihoods.
    """

    by_model: Mapping[str, Sequence[Weighted]]
    of_mean: Callable[[float], float] = float
    within: stats.Interval = (-math.inf, math.inf)
    is_continuous: bool = False

    def in_groups(self, groups: Sequence[Sequence[int]] | None) -> "Values":
        """The same with a row for each group of rows that belong together; None: no groups.

        The metric stays the same; intervals and tests are over groups.
        """
        if groups is None:
            return self
        by_model = {
            name: [_sum([of[i] for i in group]) for group in groups]
            for name, of in self.by_model.items()
        }
        return self._replace(by_model=by_model)

    def score(self, model: str) -> AnyScore:
        """The metric and its interval: bootstrap over rows, see `stats.interval_of`.

        Without an interval where that has an infinite end: for a single row, or equal rows, of a
        metric that has no bounds.
        """
        rows = self.by_model[model]
        (interval,) = stats.bootstrap(rows, lambda counts: [self._metric(counts)], self.within)
        return self._metric(Counter(rows)), _finite(interval)

    def difference(self, first: str, second: str) -> dict[str, Any] | None:
        """Second minus first: paired bootstrap over rows, and the exact sign test.

        The sign test (J. Arbuthnot 1710; the McNemar test of which model is ahead in each row)
        needs no assumption on the sizes of the differences. If the values are continuous and two
        rows or more are exactly equal, the models are the same, and the interval is 0 to 0. None
        where the interval has an infinite end.
        """
        rows = list(zip(self.by_model[first], self.by_model[second], strict=True))
        gains = [self._gain({row: 1}) for row in rows]
        if self.is_continuous and len(rows) > 1 and not any(gains):
            return _facts(0.0, (0.0, 0.0), 1.0)
        most = self.within[1] - self.within[0]
        (drawn,) = stats.bootstrap(rows, lambda counts: [self._gain(counts)], (-most, most))
        interval = _finite(drawn)
        if interval is None:
            return None
        p_value = stats.mcnemar_exact(sum(g > 0 for g in gains), sum(g < 0 for g in gains))
        return _facts(self._gain(Counter(rows)), interval, p_value)

    def _metric(self, counts: Mapping[Weighted, int]) -> float:
        total = sum(value * n for (value, _), n in counts.items())
        return self.of_mean(total / sum(weight * n for (_, weight), n in counts.items()))

    def _gain(self, counts: Mapping[tuple[Weighted, Weighted], int]) -> float:
        firsts, seconds = Counter[Weighted](), Counter[Weighted]()
        for (first, second), n in counts.items():
            firsts[first] += n
            seconds[second] += n
        return self._metric(seconds) - self._metric(firsts)


def _sum(rows: Sequence[Weighted]) -> Weighted:
    return math.fsum(value for value, _ in rows), math.fsum(weight for _, weight in rows)


def _finite(interval: stats.Interval) -> stats.Interval | None:
    return interval if all(map(math.isfinite, interval)) else None


def _facts(value: float, interval: stats.Interval, p_value: float) -> dict[str, Any]:
    return {"difference": value, "interval": list(interval), "p_value": p_value}


def pairs_of(
    models: Sequence[str], measures: Mapping[str, "Hits | Values"]
) -> list[dict[str, Any]]:
    """Every two models, the later one against the earlier one, by metric.

    Each is `{model, baseline, metrics: {metric: {difference, interval, p_value}}}`, as evaluators
    keep it in `details["pairs"]`. Metrics that one of the two doesn't have are left out, as are
    those whose difference has no interval.
    """
    return [
        {
            "model": second,
            "baseline": first,
            "metrics": {
                metric: facts
                for metric, of in measures.items()
                if first in of.by_model and second in of.by_model
                if (facts := of.difference(first, second)) is not None
            },
        }
        for first, second in combinations(models, 2)
    ]


def merged(
    pairs: Sequence[Mapping[str, Any]], more: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The comparisons of the same models with the metrics of both, as from `pairs_of`."""
    return [
        {**of, "metrics": {**of["metrics"], **added["metrics"]}}
        for of, added in zip(pairs, more, strict=True)
    ]


def remark(text: str, advice: str = "", *, warning: bool = True) -> dict[str, str]:
    """A remark on the result for `details["remarks"]`, which `show` and `build` print.

    advice: what to do about it. Step types that measure what was forgotten add a `verdict`: the
    answer of a report rests on those that are `lost`.
    """
    return {"text": text, "advice": advice, "severity": "warning" if warning else "info"}
