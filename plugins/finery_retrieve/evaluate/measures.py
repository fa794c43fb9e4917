"""Means over questions with intervals, where the questions of a document count together.

In go the values of each question by model or index, out come scores, and the paired difference of
every two. Questions about one document aren't independent of each other, so documents are drawn.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from finery_eval import stats

Score = tuple[float, stats.Interval]
Value = float | bool | None
"""From 0 to 1; None where a metric says nothing about a question."""
NOTHING = 1e-9
"""A difference of two means that is rounding error."""
PARTS = 5_000
"""Parts that the sum of all gains has in a sign-flip test of numbers that aren't whole."""
Cluster = Sequence[int]
"""The questions of a document, by number."""
Sum = tuple[float, int]
"""(sum of the values, their number) of a cluster."""


class Measure(NamedTuple):
    """A metric. values: name of a model or index → its value of each question, from 0 to 1."""

    values: Mapping[str, Sequence[Value]]
    clusters: Sequence[Cluster]

    def score(self, name: str) -> Score | None:
        """The mean and its 95 % interval; None where no question has a value.

        Of yes and no for independent questions, Wilson's interval. Else the bootstrap over clusters
        (Efron and Tibshirani 1993), see `stats.interval_of`.
        """
        values = self.values[name]
        if all(value is None for value in values):
            return None
        if self._are_shares(values):
            hits = [bool(value) for value in values if value is not None]
            return sum(hits) / len(hits), stats.wilson(sum(hits), len(hits))
        sums = self._sums(values)
        (interval,) = stats.bootstrap(sums, lambda drawn: [_mean(drawn)], stats.SHARE)
        return _mean(Counter(sums)), interval

    def difference(self, first: str, second: str) -> stats.Difference | None:
        """Second minus first, on the same questions; None where none has a value for both.

        Of yes and no for independent questions, Newcombe's paired interval (1998, method 10) and
        the exact McNemar test. Else the paired bootstrap over clusters (`stats.interval_of`), and
        the sign-flip test over clusters (Fisher 1935, Pitman 1937).
        """
        both = list(zip(self.values[first], self.values[second], strict=True))
        known = [pair for pair in both if None not in pair]
        if not known:
            return None
        if self._are_single and all(value in (0, 1) for pair in known for value in pair):
            return _of_shares(known)
        return self._of_gains([_gain(pair) for pair in both])

    def _of_gains(self, gains: Sequence[Value]) -> stats.Difference:
        """The difference of two means."""
        sums = self._sums(gains)
        (interval,) = stats.bootstrap(sums, lambda drawn: [_mean(drawn)], stats.GAIN)
        value = _mean(Counter(sums))
        return stats.Difference(value, interval, _sign_flips([gain for gain, _ in sums]))

    @property
    def _are_single(self) -> bool:
        return all(len(cluster) == 1 for cluster in self.clusters)

    def _are_shares(self, values: Sequence[Value]) -> bool:
        return self._are_single and all(value is None or value in (0, 1) for value in values)

    def _sums(self, values: Sequence[Value]) -> list[Sum]:
        sums = []
        for cluster in self.clusters:
            known = [value for i in cluster if (value := values[i]) is not None]
            if known:
                sums.append((float(sum(known)), len(known)))
        return sums


def clusters_of(documents: Sequence[str]) -> list[list[int]]:
    """The questions about each document, by number. documents: that of each question."""
    clusters: dict[str, list[int]] = {}
    for number, document in enumerate(documents):
        clusters.setdefault(document, []).append(number)
    return list(clusters.values())


def scores_of(
    names: Sequence[str], measures: Mapping[str, Measure]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, list[float]]]]:
    """(scores, intervals) by name and metric. A metric that applies to no question is left out."""
    scores: dict[str, dict[str, float]] = {name: {} for name in names}
    intervals: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for name in names:
        for metric, measure in measures.items():
            if (score := measure.score(name)) is not None:
                scores[name][metric], intervals[name][metric] = score[0], list(score[1])
    return scores, intervals


def pairs_of(names: Sequence[str], measures: Mapping[str, Measure]) -> list[dict[str, Any]]:
    """Every two models or indices, the later one against the earlier one, by metric.

    Each is `{model, baseline, metrics: {metric: {difference, interval, p_value}}}`, as evaluators
    keep it in `details["pairs"]`.
    """
    return [
        {"model": second, "baseline": first, "metrics": dict(_between(first, second, measures))}
        for first, second in combinations(names, 2)
    ]


def _between(
    first: str, second: str, measures: Mapping[str, Measure]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for metric, measure in measures.items():
        between = measure.difference(first, second)
        if between is not None:
            interval = list(between.interval)
            yield metric, {
                "difference": between.value, "interval": interval, "p_value": between.p_value,
            }  # fmt: skip


def _of_shares(pairs: Sequence[tuple[Value, Value]]) -> stats.Difference:
    hits = [(bool(first), bool(second)) for first, second in pairs]
    gained, lost = hits.count((False, True)), hits.count((True, False))
    value, interval = stats.paired_difference(
        hits.count((True, True)), gained, lost, hits.count((False, False))
    )
    return stats.Difference(value, interval, stats.mcnemar_exact(gained, lost))


def _sign_flips(gains: Sequence[float]) -> float:
    """The p-value of the sign-flip test. It takes whole numbers: gains are rounded to parts."""
    total = sum(map(abs, gains))
    if total < NOTHING:
        return 1.0
    is_whole = all(gain == round(gain) for gain in gains)
    part = 1.0 if is_whole else total / PARTS
    return stats.sign_flip_exact([round(gain / part) for gain in gains])


def _mean(counts: Mapping[Sum, int]) -> float:
    total = sum(value * times for (value, _), times in counts.items())
    return total / sum(number * times for (_, number), times in counts.items())


def _gain(pair: tuple[Value, Value]) -> Value:
    first, second = pair
    return None if first is None or second is None else float(second) - float(first)
