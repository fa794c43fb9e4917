"""Verdicts of evaluators on answers: the values of metrics, facts for people, and related rows.

The answers in a group of related rows aren't independent: a model that goes wrong in the first turn
of a conversation goes wrong in the next. So resampling draws groups, and the width of an interval
depends on the number of groups instead of the number of answers.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Completion
from finery.rows.report import Report, ReportTable
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
    that aren't means. unbounded: the metrics that aren't from 0 to 1. continuous: those in which
    two models are equal only if they are the same. units: of the metrics that have one. tables:
    shown after the comparison of the models. report: what else the evaluator says, e.g. `remarks`
    and `extra`.
    """

    judged: Mapping[str, Sequence[Verdict]]
    metrics: Sequence[str]
    headline: Sequence[str] = ()
    tables: Sequence[ReportTable] = ()
    statistics: Mapping[str, Statistic] = {}
    unbounded: Collection[str] = ()
    continuous: Collection[str] = ()
    units: Mapping[str, str] = {}
    report: Report = Report()

    def is_share(self, metric: str) -> bool:
        """Whether a metric is from 0 to 1."""
        return metric not in self.unbounded

    def statistic(self, metric: str) -> Statistic | None:
        """The statistic of a metric; None for a share, or a metric that isn't from 0 to 1."""
        if metric in self.statistics or not self.is_share(metric):
            return self.statistics.get(metric)
        values = (value for column in self.values(metric).values() for value in column)
        is_number = any(value is not None and not isinstance(value, bool) for value in values)
        return mean if is_number else None

    def values(self, metric: str) -> dict[str, list[Value]]:
        """Model → the value of each row."""
        return {name: [v.values.get(metric) for v in rows] for name, rows in self.judged.items()}

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
            values = {name: [column[i] for i in numbers] for name, column in values.items()}
        return measure_of(
            values,
            groups,
            statistic=self.statistic(metric),
            is_share=self.is_share(metric),
            is_continuous=metric in self.continuous,
        )

    def right(self) -> dict[str, list[bool]]:
        """Model → whether each answer is right."""
        return {name: list(map(bool, rows)) for name, rows in self.values(self.metrics[0]).items()}

    def with_tables(self, tables: Sequence[ReportTable]) -> "Verdicts":
        """The same with more tables."""
        return self._replace(tables=[*self.tables, *tables])


Judging = Callable[[Answers], Verdicts]
"""Judges the answers of all models."""


def each_judged(
    answers: Answers, judge: Callable[[int, Completion], Verdict]
) -> dict[str, list[Verdict]]:
    """Model → the verdict on each of its answers. judge: takes the row's number and the answer."""
    return {
        name: [judge(i, answer) for i, answer in enumerate(completions)]
        for name, completions in answers.items()
    }


# -- groups of related rows -----------------------------------------------------------------------


def together(rows: Sequence[Mapping[str, Any]]) -> list[Group] | None:
    """The groups of related rows, see `groups_of`; None if all rows are independent."""
    groups = groups_of(rows)
    return groups if len(groups) < len(rows) else None


def among(groups: Sequence[Group] | None, numbers: Sequence[int]) -> list[Group] | None:
    """The groups of some rows, by their index among these; None if there are no groups."""
    if groups is None:
        return None
    place = {number: i for i, number in enumerate(numbers)}
    parts = [[place[i] for i in group if i in place] for group in groups]
    return [part for part in parts if part]


def effective(groups: Sequence[Group]) -> float:
    """The minimum number of independent rows that grouped ones are worth.

    It assumes that all rows of a group get the same answer.

    Source: L. Kish, "Survey Sampling" (1965), ch. 8: the design effect of clusters, here with an
    intraclass correlation of 1.
    """
    sizes = [len(group) for group in groups]
    return sum(sizes) ** 2 / sum(size * size for size in sizes)


def groups_of(rows: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The rows that belong together: equal ids, a common parent, or a row and its parent.

    Also through others: of a row's paraphrase, a paraphrase belongs to all three.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for row in rows:
        for parent in row.get("parents") or ():
            leader[find(parent)] = find(row["id"])
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(find(row["id"]), []).append(i)
    return list(groups.values())
