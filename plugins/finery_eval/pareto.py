"""Models that several evaluations judged, and which of them no other one beats in all metrics.

Input: reports of evaluations. Output: for `eval.select`, the models with all of its metrics.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finery import DataError
from finery.rows.report import Interval, Report, Table
from finery_eval.measure import between
from finery_eval.tables import table

MISSING = {
    "price_per_1000": "write machine: {per_hour: DOLLARS} in eval.speed, or price: in the step of "
    "a model behind an API",
    "first_token_p50": "leave it out: no engine of these models tells when an answer begins",
}
"""The fix for a metric that `eval.speed` couldn't measure. By name, to keep that out of the key."""
Aims = Mapping[str, int]
"""Metric → 1 if higher values are better, -1 if lower ones are."""


def aims_of(names: Sequence[str]) -> dict[str, int]:
    """The aims that names like `-latency_p50` mean."""
    return {name.removeprefix("-"): -1 if name.startswith("-") else 1 for name in names}


class Compared(NamedTuple):
    """The models that have all metrics. reports: metric → the first evaluation that has it.

    scores: model → metric → value. aims: what they are weighed by. left_out: other models.
    """

    reports: Mapping[str, Report]
    scores: Mapping[str, Mapping[str, float]]
    aims: Aims
    left_out: Sequence[str]

    @property
    def beaten(self) -> dict[str, list[str]]:
        """Model → those that are better in one of the aims and no worse in the others."""
        return {name: [by for by in self.scores if self._beats(by, name)] for name in self.scores}

    def _beats(self, model: str, other: str) -> bool:
        first, second = self.scores[model], self.scores[other]
        gains = [sign * (first[metric] - second[metric]) for metric, sign in self.aims.items()]
        return any(gain > 0 for gain in gains) and all(gain >= 0 for gain in gains)

    @property
    def unbounded(self) -> list[str]:
        """The metrics that aren't from 0 to 1."""
        return [metric for metric, of in self.reports.items() if not of.is_share(metric)]

    @property
    def units(self) -> dict[str, str]:
        """Metric → its unit, of those that have one."""
        return {m: of.units[m] for m, of in self.reports.items() if m in of.units}

    def interval(self, model: str, metric: str) -> Interval | None:
        """The interval of a score, if it has one."""
        score = self.reports[metric].score(model, metric)
        return score.interval if score else None

    def margin(self, metric: str, first: str, second: str) -> dict[str, Any]:
        """The lead of a model over another one, with the interval that their evaluation has."""
        test = between(self.reports[metric].pairs, first, second).get(metric)
        return {
            "over": second,
            "difference": self.scores[first][metric] - self.scores[second][metric],
            "interval": None if test is None else list(test.interval),
        }

    def tables(self, ranked: Sequence[str]) -> list[Table]:
        """The table of the models and what beats them; empty if nothing is weighed."""
        if not self.aims:
            return []
        rows = [
            [
                name,
                *(self.scores[name][m] for m in self.aims),
                ", ".join(self.beaten[name]) or "none",
            ]
            for name in ranked
        ]
        shares = [metric for metric in self.aims if metric not in self.unbounded]
        units = dict.fromkeys(shares, "share") | self.units
        return [table("Pareto front", ["model", *self.aims, "beaten by"], rows, units=units)]


def compare_models(reports: Sequence[Report], metric: str, aims: Aims) -> Compared:
    """The models that the evaluations judged. metric: to choose by.

    Raises `DataError` for a metric that no evaluation has, or if no model has all of them.
    """
    found = {}
    for name in (metric, *aims):
        having = (r for r in reports if any(name in of for of in r.scores.values()))
        if (report := next(having, None)) is None:
            names = dict.fromkeys(m for r in reports for of in r.scores.values() for m in of)
            raise DataError(
                f"no candidate has a score {name}",
                where="metric" if name == metric else "pareto",
                fix=MISSING.get(name) or f"name one of: {', '.join(names)}",
            )
        found[name] = report
    models = dict.fromkeys(model for report in reports for model in report.scores)
    scores = {
        model: {name: report.scores[model][name].value for name, report in found.items()}
        for model in models
        if all(report.score(model, name) for name, report in found.items())
    }
    if not scores:
        raise DataError(
            f"no model has all of {', '.join(found)}",
            fix="let all candidates evaluate the same models",
        )
    return Compared(found, scores, aims, [model for model in models if model not in scores])
