"""What evaluators say of the answers of models, and the scores that follow from it."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from finery_eval import stats

Score = tuple[float, stats.Interval]
Hit = bool | None
"""Whether an answer counts for a metric. None: the metric says nothing about this row."""


class Judged(NamedTuple):
    """The answers of one model, judged row by row.

    facts: what `predictions.jsonl` says of each answer, e.g. `correct`.
    hits: metric → whether each answer counts. The first one says whether an answer is right; it is
        never None, and models are compared by it.
    outcomes: what `Means` need to know of each answer; None where one doesn't count for them.
    """

    facts: Sequence[Mapping[str, Any]]
    hits: Mapping[str, Sequence[Hit]]
    outcomes: Sequence[Hashable] = ()

    @property
    def correct(self) -> list[bool]:
        """Whether each answer is right."""
        return [bool(hit) for hit in next(iter(self.hits.values()))]

    @property
    def counts(self) -> Counter[Any]:
        """How often each outcome occurs."""
        return Counter(self.outcomes)


class Means(NamedTuple):
    """Metrics from 0 to 1 that are no shares of rows, such as F1.

    statistic: takes how often each outcome occurs, returns the value of each of `names`.
    """

    names: Sequence[str]
    statistic: Callable[[Mapping[Any, int]], Sequence[float]]


class Verdicts(NamedTuple):
    """What an evaluator says of the answers of all models to the same rows.

    metrics: all metrics in the order in which they are written. headline: those that are shown.
    tables: shown after the comparison of the models. details: more for `metrics.json`.
    """

    judged: Mapping[str, Judged]
    metrics: Sequence[str]
    headline: Sequence[str]
    tables: Sequence[dict[str, Any]] = ()
    means: Means | None = None
    details: Mapping[str, Any] = {}

    def with_tables(self, tables: Sequence[dict[str, Any]]) -> "Verdicts":
        """The same with more tables."""
        return self._replace(tables=[*self.tables, *tables])


Draws = Mapping[str, Sequence[float]]
"""Metric → its values in resamples of the rows, see `stats.resampled`."""


def draws_of(judged: Judged, verdicts: Verdicts) -> Draws:
    """The resampled values of the metrics that are no shares, where rows are independent."""
    if verdicts.means is None:
        return {}
    names, statistic = verdicts.means
    return dict(zip(names, stats.resampled(judged.outcomes, statistic), strict=True))


def scores(judged: Judged, verdicts: Verdicts, draws: Draws | None = None) -> dict[str, Score]:
    """Metric → (value, interval) of one model, where rows are independent of each other.

    Intervals of shares are Wilson's, others are bootstrapped. A metric that applies to no row is
    left out. draws: as from `draws_of`, if they are there already.
    """
    scored: dict[str, Score] = {}
    for metric, hits in judged.hits.items():
        counted = [hit for hit in hits if hit is not None]
        if counted:
            share = sum(counted) / len(counted)
            scored[metric] = share, stats.wilson(sum(counted), len(counted))
    drawn = draws_of(judged, verdicts) if draws is None else draws
    n = sum(outcome is not None for outcome in judged.outcomes)
    scored |= means(judged, verdicts, drawn, n)
    return {metric: scored[metric] for metric in verdicts.metrics if metric in scored}


def means(judged: Judged, verdicts: Verdicts, draws: Draws, n: int) -> dict[str, Score]:
    """The metrics that are no shares, with the intervals of their draws.

    n: the rows or groups that count for them.
    """
    if verdicts.means is None:
        return {}
    names, statistic = verdicts.means
    values = zip(names, statistic(judged.counts), strict=True)
    return {name: (value, stats.interval_of(draws[name], n, stats.SHARE)) for name, value in values}
