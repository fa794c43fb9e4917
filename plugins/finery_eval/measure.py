"""One metric of several models on the same rows: its value, its interval, and paired differences.

Input: the values of each row by model, and the groups of related rows. Output: scores, slices,
gates, comparisons, `diff` and `select`. No other module chooses a statistical method.

| values | score | difference of two models |
| --- | --- | --- |
| yes or no, independent rows | Wilson | Newcombe's paired interval, exact McNemar test |
| yes or no in groups; numbers from 0 to 1 | bootstrap | bootstrap, exact sign flips |
| with a `statistic`, e.g. `mean` or macro-F1 | bootstrap | paired bootstrap, also its p-value |
| weighted, or not from 0 to 1 | bootstrap | paired bootstrap, exact sign test |

`finery_eval.stats` names the sources. Bootstraps draw groups (or rows if there are none) from those
that the metric applies to; for a pair of models, from those that it applies to for both.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import msgspec

from finery import StepError
from finery.rows.report import Comparison, Difference, Interval, Pair, Score, Scores
from finery_eval import stats
from finery_eval.stats import NO_WIDTH, SHARE

Value = Any
"""Of a row: True or False, a number, or what a statistic needs. None: the metric doesn't apply."""
Statistic = Callable[[Mapping[Any, int]], float]
"""A metric, computed from how often each value occurs; 0 if there are no values."""
Group = Sequence[int]
"""Rows that belong together, by number."""

MCNEMAR = "McNemar, exact"
SIGN_FLIPS = "sign flips, exact"
BOOTSTRAP = "paired bootstrap"
SIGN_TEST = "sign test, exact"


@dataclass(frozen=True)
class Measure:
    """A metric. values: model → the value of each row.

    groups: rows that aren't independent of each other; None if all are. statistic: of metrics that
    aren't means. weights: of each row, by model. of_mean: the metric as a monotonic function of the
    weighted mean. within: what the metric can be. is_continuous: whether two models have exactly
    equal values only if they are the same, as with likelihoods.
    """

    values: Mapping[str, Sequence[Value]]
    groups: Sequence[Group] | None = None
    statistic: Statistic | None = None
    weights: Mapping[str, Sequence[float]] | None = None
    of_mean: Callable[[float], float] = float
    within: Interval = SHARE
    is_continuous: bool = False
    _drawn: dict[Any, list[float]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def test(self) -> str:
        """The test behind the p-values, in words."""
        if self.statistic is not None:
            return BOOTSTRAP
        if self._is_weighted:
            return SIGN_TEST
        values = [value for model_values in self.values.values() for value in model_values]
        return MCNEMAR if self.groups is None and are_yes_no(values) else SIGN_FLIPS

    def score(self, name: str) -> Score | None:
        """The metric of a model, without an interval if a bound is infinite.

        None if it applies to no row.
        """
        values, units = self.values[name], self._units(name)
        if not units:
            return None
        if self.statistic is not None:
            draws = self._draws(name, units)
            interval = stats.interval_of(draws, len(units), self.within)
            stored_draws = () if self.statistic is mean else draws
            return Score(self._computed(_counts(values)), _finite(interval), stored_draws)
        if self.groups is None and not self._is_weighted and are_yes_no(values):
            hits = sum(bool(values[i]) for (i,) in units)
            return Score(hits / len(units), stats.wilson(hits, len(units)))
        rows = [self._weighted(name, unit) for unit in units]
        drawn = stats.bootstrap(rows, self._mean, self.within)
        return Score(self._mean(Counter(rows)), _finite(drawn))

    def difference(self, first: str, second: str) -> Difference | None:
        """Second minus first model, on the rows that count for both.

        None if there are no such rows, or if the interval has an infinite bound.
        """
        units = self._units(first, second)
        difference = self._between(first, second, units) if units else None
        if difference is not None:
            difference.rows = self.part(first, second)
        return difference

    def part(self, *names: str) -> int | None:
        """The number of rows that the metric applies to for all these models; None if it is all."""
        rows = sum(map(len, self._units(*names)))
        return rows if rows < len(self.values[names[0]]) else None

    def _between(self, first: str, second: str, units: Sequence[Group]) -> Difference | None:
        if self.statistic is not None:
            difference = self._of_statistics(first, second, units)
            return difference if _finite(difference.interval) else None
        if self._is_weighted:
            return self._of_weighted(first, second, units)
        a, b = self.values[first], self.values[second]
        if self.groups is None and are_yes_no([column[i] for (i,) in units for column in (a, b)]):
            pairs = [(bool(a[i]), bool(b[i])) for (i,) in units]
            gained, lost = pairs.count((False, True)), pairs.count((True, False))
            value, interval = stats.paired_difference(
                pairs.count((True, True)), gained, lost, pairs.count((False, False))
            )
            return Difference(value, interval, stats.mcnemar_exact(gained, lost))
        gains = [
            (math.fsum(float(b[i]) - float(a[i]) for i in unit), float(len(unit))) for unit in units
        ]
        interval = stats.bootstrap(gains, self._mean, self._gain)
        p_value = stats.sign_flips([gain for gain, _ in gains])
        return Difference(self._mean(Counter(gains)), interval, p_value)

    def by_row(self, name: str) -> list[Value] | None:
        """Each row's contribution to a mean over rows; None for a metric that isn't a mean."""
        values = self.values[name]
        if self.statistic is None:
            return list(values)
        rows = [None if value is None else self._computed({value: 1}) for value in values]
        present = [value for value in rows if value is not None]
        overall = self._computed(_counts(values))
        is_mean = bool(present) and abs(sum(present) / len(present) - overall) < stats.NO_WIDTH
        return rows if is_mean else None

    @property
    def _is_weighted(self) -> bool:
        return self.weights is not None or self.within != SHARE

    @property
    def _gain(self) -> Interval:
        """The possible values of a difference."""
        width = self.within[1] - self.within[0]
        return -width, width

    def _units(self, *names: str) -> list[list[int]]:
        """The rows that the metric applies to for all these models, by group.

        Only these are resampled: a draw of other rows has no value.
        """
        columns = [self.values[name] for name in names]
        alone = self.groups if self.groups is not None else [[i] for i in range(len(columns[0]))]
        units = [
            [i for i in unit if all(column[i] is not None for column in columns)] for unit in alone
        ]
        return list(filter(None, units))

    # -- metrics with a statistic

    def _computed(self, counts: Mapping[Value, int]) -> float:
        """The value of the statistic. Raises `StepError` if it fails, or returns no such number."""
        assert self.statistic is not None
        (low, high), cause = self.within, None
        try:
            value = float(self.statistic(counts))
            if low - NO_WIDTH <= value <= high + NO_WIDTH:
                return value
            right = "from 0 to 1" if self.within == SHARE else "a number"
            problem = f"returned {value}, which isn't {right}"
        except Exception as error:  # a plugin's code can raise anything
            problem, cause = f"failed: {type(error).__name__}: {error}", error
        raise StepError(
            f"the statistic `{getattr(self.statistic, '__name__', self.statistic)}` {problem}",
            fix="correct it; a metric that can be outside of 0 to 1 must be in `unbounded`",
        ) from cause

    def _draws(self, name: str, units: Sequence[Group]) -> list[float]:
        """The values of the statistic in resamples of these units, the same for all models."""
        key = name, tuple(map(tuple, units))
        if key not in self._drawn:
            values = self.values[name]
            outcomes = [tuple(values[i] for i in unit) for unit in units]
            (self._drawn[key],) = stats.resampled(
                outcomes, lambda x: [self._computed(_ungrouped(x))]
            )
        return self._drawn[key]

    def _of_statistics(self, first: str, second: str, units: Sequence[Group]) -> Difference:
        rows = [i for unit in units for i in unit]
        sides = (first, second)
        a, b = (self._computed(_counts([self.values[n][i] for i in rows])) for n in sides)
        return self._of_draws(*sides, units, b - a, [self._draws(n, units) for n in sides])

    def _of_draws(
        self,
        first: str,
        second: str,
        units: Sequence[Group],
        value: float,
        draws: Sequence[Sequence[float]],
    ) -> Difference:
        a, b = self.values[first], self.values[second]
        differing = sum(any(a[i] != b[i] for i in unit) for unit in units)
        drawn = [y - x for x, y in zip(*draws, strict=True)]
        interval = stats.interval_of(drawn, len(units), self._gain)
        return Difference(value, interval, stats.bootstrap_p(drawn, differing))

    # -- means over rows, which may be weighted

    def _weighted(self, name: str, unit: Group) -> tuple[float, float]:
        """(weighted value, weight) of a row or a group."""
        weights = self.weights[name] if self.weights is not None else None
        values = math.fsum(self.values[name][i] for i in unit)
        return values, float(len(unit)) if weights is None else math.fsum(weights[i] for i in unit)

    def _mean(self, counts: Mapping[tuple[float, float], int]) -> float:
        total = sum(value * n for (value, _), n in counts.items())
        return self.of_mean(total / sum(weight * n for (_, weight), n in counts.items()))

    def _of_weighted(self, first: str, second: str, units: Sequence[Group]) -> Difference | None:
        """If all is equal and values are continuous, the models are the same: 0, from 0 to 0."""
        rows = [(self._weighted(first, unit), self._weighted(second, unit)) for unit in units]

        def gain(counts: Mapping[Any, int]) -> float:
            sides: tuple[Counter[Any], Counter[Any]] = Counter(), Counter()
            for pair, n in counts.items():
                for side, row in zip(sides, pair, strict=True):
                    side[row] += n
            return self._mean(sides[1]) - self._mean(sides[0])

        gains = [gain({row: 1}) for row in rows]
        if self.is_continuous and len(rows) > 1 and not any(gains):
            return Difference(0.0, (0.0, 0.0), 1.0)
        drawn = stats.bootstrap(rows, gain, self._gain)
        interval = _finite(drawn)
        if interval is None:
            return None
        p_value = stats.mcnemar_exact(sum(g > 0 for g in gains), sum(g < 0 for g in gains))
        return Difference(gain(Counter(rows)), interval, p_value)


@dataclass(frozen=True)
class StoredMeasure(Measure):
    """A metric with a statistic, as evaluations of the same rows in the same groups stored it.

    scores: with the draws of these rows. The statistic itself isn't computed again.
    """

    scores: Mapping[str, Score] = field(default_factory=dict)

    @property
    def test(self) -> str:
        """The test behind the p-values, in words."""
        return BOOTSTRAP

    def _between(self, first: str, second: str, units: Sequence[Group]) -> Difference | None:
        a, b = self.scores[first], self.scores[second]
        difference = self._of_draws(first, second, units, b.value - a.value, [a.draws, b.draws])
        return difference if _finite(difference.interval) else None


def are_yes_no(values: Collection[Value]) -> bool:
    """Whether all values are 0 or 1, or don't count."""
    return all(value is None or value in (0, 1) for value in values)


def mean(counts: Mapping[float, int]) -> float:
    """The mean of numbers, as a statistic."""
    total = sum(counts.values())
    return sum(value * n for value, n in counts.items()) / total if total else 0.0


def frozen(value: Value) -> Value:
    """A value that can be counted: lists, e.g. from JSON, become tuples."""
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value


def measure_of(
    values: Mapping[str, Sequence[Value]],
    groups: Sequence[Group] | None,
    *,
    statistic: Statistic | None = None,
    is_share: bool = True,
    is_continuous: bool = False,
) -> Measure:
    """The measure of a metric of an evaluator. is_share: whether the metric is from 0 to 1."""
    columns = {name: [frozen(value) for value in column] for name, column in values.items()}
    within = SHARE if is_share else (-math.inf, math.inf)
    return Measure(columns, groups, statistic, within=within, is_continuous=is_continuous)


def scores_of(names: Sequence[str], measures: Mapping[str, Measure]) -> Scores:
    """Model → metric → score. A metric that applies to no row of a model is left out."""
    return {
        name: {
            metric: score
            for metric, measure in measures.items()
            if name in measure.values and (score := measure.score(name)) is not None
        }
        for name in names
    }


def parts_of(names: Sequence[str], measures: Mapping[str, Measure]) -> dict[str, dict[str, int]]:
    """Model → metric → the rows that it applies to, of metrics that don't apply to all rows."""
    parts = {
        name: {
            metric: rows
            for metric, measure in measures.items()
            if name in measure.values and (rows := measure.part(name)) is not None
        }
        for name in names
    }
    return {name: measures for name, measures in parts.items() if measures}


def pairs_of(names: Sequence[str], measures: Mapping[str, Measure]) -> list[Pair]:
    """Every two models, the later one against the earlier one, in all metrics.

    Metrics that can't be compared are left out.
    """
    return [
        Pair(
            second,
            first,
            {
                metric: between
                for metric, measure in measures.items()
                if first in measure.values and second in measure.values
                if (between := measure.difference(first, second)) is not None
            },
        )
        for first, second in combinations(names, 2)
    ]


def compare(measure: Measure) -> list[Comparison]:
    """Each model against the first, in one metric.

    p_value is for a single comparison. If there are several, each also has `p_holm`, which corrects
    for their number. For yes-or-no metrics, the rows that only one of the two has right are
    counted.
    """
    baseline, *other_models = measure.values
    compared = []
    for name in other_models:
        between = measure.difference(baseline, name)
        if between is None:
            continue
        facts = msgspec.structs.asdict(between)
        comparison = Comparison(model=name, baseline=baseline, method=measure.test, **facts)
        if measure.test in (MCNEMAR, SIGN_FLIPS):
            pairs = list(zip(measure.values[name], measure.values[baseline], strict=True))
            comparison.only_model = pairs.count((True, False))
            comparison.only_baseline = pairs.count((False, True))
        compared.append(comparison)
    if len(compared) > 1:
        adjusted = stats.holm([comparison.p_value for comparison in compared])
        for tested, p_value in zip(compared, adjusted, strict=True):
            tested.p_holm = p_value
    return compared


def between(pairs: Sequence[Pair], model: str, baseline: str) -> dict[str, Difference]:
    """Metric → a model minus another one, whichever of them comes first in the pairs."""
    for pair in pairs:
        if {pair.model, pair.baseline} == {model, baseline}:
            if pair.model == model:
                return pair.metrics
            return {
                metric: Difference(-d.value, (-d.interval[1], -d.interval[0]), d.p_value, d.rows)
                for metric, d in pair.metrics.items()
            }
    return {}


def _counts(values: Sequence[Value]) -> Counter[Value]:
    return Counter(value for value in values if value is not None)


def _ungrouped(counts: Mapping[tuple[Value, ...], int]) -> Counter[Value]:
    """How often each value occurs, given how often each group does."""
    each: Counter[Value] = Counter()
    for group, n in counts.items():
        for value in group:
            each[value] += n
    return each


def _finite(interval: Interval) -> Interval | None:
    return interval if all(map(math.isfinite, interval)) else None
