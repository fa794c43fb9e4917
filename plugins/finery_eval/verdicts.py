"""Verdicts of evaluators on answers: the values of metrics, and facts for people."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Completion
from finery_eval.measure import Group, Measure, Statistic, Value, mean, measure_of

Answers = dict[str, list[Completion]]
"""Model name → its answers, one a row."""


class Verdict(NamedTuple):
    """The verdict on an answer.

    values: metric → True or False, a number, or the input of a statistic; None if the metric
    doesn't apply to this row. facts: what `predictions.jsonl` has for people, e.g. `expected`,
    `prediction`, and why an answer is wrong.
    """

    values: Mapping[str, Value]
    facts: Mapping[str, Any] = {}


class Verdicts(NamedTuple):
    """The verdicts on the answers of all models to the same rows.

    metrics: in the order in which they are written. The first one decides whether an answer is
    right, and models are compared by it. headline: the displayed ones. statistics: of the metrics
    that aren't means. unbounded: the metrics that aren't from 0 to 1. tables: shown after the
    comparison of the models. details: more for `metrics.json`.
    """

    judged: Mapping[str, Sequence[Verdict]]
    metrics: Sequence[str]
    headline: Sequence[str] = ()
    tables: Sequence[dict[str, Any]] = ()
    statistics: Mapping[str, Statistic] = {}
    unbounded: Collection[str] = ()
    details: Mapping[str, Any] = {}

    def is_share(self, metric: str) -> bool:
        """Whether a metric is from 0 to 1."""
        return metric not in self.unbounded

    def statistic(self, metric: str) -> Statistic | None:
        """The statistic of a metric; None for a share, or a metric that isn't from 0 to 1."""
        if metric in self.statistics or not self.is_share(metric):
            return self.statistics.get(metric)
        values = (value for of in self.values(metric).values() for value in of)
        is_number = any(value is not None and not isinstance(value, bool) for value in values)
        return mean if is_number else None

    def values(self, metric: str) -> dict[str, list[Value]]:
        """Model → the value of each row."""
        return {name: [v.values.get(metric) for v in of] for name, of in self.judged.items()}

    def measures(
        self, groups: Sequence[Group] | None, numbers: Sequence[int] | None = None
    ) -> dict[str, Measure]:
        """Metric → its measure. groups: the rows that belong together. numbers: some of the rows.

        groups are by the place among these rows.
        """
        return {metric: self.measure(metric, groups, numbers) for metric in self.metrics}

    def measure(
        self,
        metric: str,
        groups: Sequence[Group] | None,
        numbers: Sequence[int] | None = None,
    ) -> Measure:
        """The measure of one metric, see `measures`."""
        values = self.values(metric)
        if numbers is not None:
            values = {name: [of[i] for i in numbers] for name, of in values.items()}
        return measure_of(
            values, groups, statistic=self.statistic(metric), is_share=self.is_share(metric)
        )

    def right(self) -> dict[str, list[bool]]:
        """Model → whether each answer is right."""
        return {name: list(map(bool, of)) for name, of in self.values(self.metrics[0]).items()}

    def with_tables(self, tables: Sequence[dict[str, Any]]) -> "Verdicts":
        """The same with more tables."""
        return self._replace(tables=[*self.tables, *tables])


def each_judged(
    answers: Answers, judge: Callable[[int, Completion], Mapping[str, Value] | Verdict]
) -> dict[str, list[Verdict]]:
    """Model → the verdict on each of its answers. judge: takes the row's number and the answer."""
    return {
        name: [
            said if isinstance(said := judge(i, answer), Verdict) else Verdict(said)
            for i, answer in enumerate(completions)
        ]
        for name, completions in answers.items()
    }
