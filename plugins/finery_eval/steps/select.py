"""`eval.select`: which of several candidates is best, and by how much."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from finery import DataError, Job, Metrics, Step, UsageError, outside_key, setting, takes
from finery.advanced import did_you_mean, quantity, signed
from finery.rows.repeats import summarise
from finery.rows.report import Interval, Report, ReportTable, Score
from finery_eval.measure import between
from finery_eval.predictions import difference_between, paired

CHOSEN, MARGIN = "chosen", "margin"
"""An entry of `extra` in a report: the best candidate, and its `Margin` over the next."""
OVER_SEEDS = "the seed of a training only, not the choice of rows"


class Margin(msgspec.Struct):
    """The lead of the best candidate over the next, with a 95 % interval if a method exists."""

    over: str
    difference: float
    interval: Interval | None


class _Candidate(NamedTuple):
    """A candidate, or one of its repeats. interval: 95 % interval of the score, if there is one."""

    name: str
    scores: Sequence[float]
    interval: tuple[float, float] | None
    metrics: Sequence[Metrics]

    @property
    def score(self) -> float:
        """The score that counts: the mean over repeats."""
        return summarise(self.scores).mean


class Select(Step, seeded=False, sections=("evaluate",)):
    """Choose the best of several evaluations of one model, or the best model, by one metric.

    `matrix: {select: …}` adds this step to a recipe automatically. Of equally good candidates, the
    first is chosen. Candidates that are repeated under several seeds are compared by their means,
    and the repeat with the best score on the same rows is chosen. The result has every candidate's
    score with its interval, and the lead of the chosen one over the next: for a share of the same
    rows with the paired interval (Newcombe 1998, method 10; bootstrap over groups if rows belong
    together), for other metrics with the paired bootstrap, and over repeats under the same seeds
    with Student's interval of the differences.

    Without `model`, the choice is among the models that the evaluations judged. Each metric is from
    the first evaluation that has it, so one can measure accuracy and another one speed. With
    `pareto`, a model is only chosen if no other one beats it: is better in one of these metrics,
    and no worse in the others.
    """

    candidates: list[Metrics] = takes(
        uses_name=True, help="The evaluations to choose from, in the order that breaks a tie."
    )
    model: str | None = setting(
        None,
        help="The model, as the evaluations name it. Default: choose among the models that the "
        "evaluations judged.",
    )
    metric: str = setting(help="The metric to choose by.")
    best: Literal["highest", "lowest"] = setting(
        "highest", help="Whether the highest or the lowest value is the best."
    )
    repeats: dict[str, list[str]] = setting(
        {},
        help="Candidates that repeat the same training under different seeds, by a name for each "
        "group. Groups are compared by their means, and the best repeat of the best one is chosen.",
    )
    pareto: list[str] = setting(
        [],
        help="Metrics to weigh against each other, for a choice among models. A `-` before a name "
        "means that lower values are better. Models that another one beats can't be chosen.",
        examples=[["accuracy", "-latency_p50", "-price_per_1000"]],
    )

    def check(self) -> None:
        """Raise `UsageError` where a repeat isn't a candidate, or settings don't fit together."""
        if self.pareto and self.model:
            problem, fix = "`pareto` is for a choice among models", "remove `model` or `pareto`"
            raise UsageError(problem, where="pareto", fix=fix)
        if self.repeats and not self.model:
            problem = "`repeats` is for evaluations of one model"
            raise UsageError(problem, where="repeats", fix="name it with `model`")
        names = [metrics.name for metrics in self.candidates]
        for group, members in self.repeats.items():
            for name in members:
                if name not in names:
                    raise UsageError(
                        f"'{name}' of {group} is not a candidate",
                        where="repeats",
                        fix=f"one of: {', '.join(names)}",
                    )
        self._check_metrics()

    @outside_key
    def _check_metrics(self) -> None:
        """Raise `UsageError` for a metric that no candidate has, or whose other values are better.

        What a candidate measures is known of evaluators, see `Gate.outputs`.
        """
        metas = [metrics.meta for metrics in self.candidates]
        better = {name: aim for meta in metas for name, aim in meta.get("better", {}).items()}
        aims = [name.removeprefix("-") for name in self.pareto]
        if twice := [name for name in aims if aims.count(name) > 1]:
            problem = f"`pareto` has {twice[0]} twice"
            raise UsageError(problem, where="pareto", fix="name each metric once")
        for where, name in [("metric", self.metric), *(("pareto", aim) for aim in aims)]:
            measured = {metric for meta in metas for metric in meta.get("metrics", ())}
            if name not in measured and all("metrics" in meta for meta in metas):
                problem = f"the candidates have no metric '{name}'"
                raise UsageError(problem, where=where, fix=did_you_mean(name, measured))
        way = "higher" if self.best == "highest" else "lower"
        if better.get(self.metric, way) != way:
            raise UsageError(
                f"{better[self.metric]} values of {self.metric} are better",
                where="metric",
                fix=f"add best: {'lowest' if way == 'higher' else 'highest'}",
            )
        for name, sign in aims_of(self.pareto).items():
            if better.get(name, way := "higher" if sign > 0 else "lower") != way:
                raise UsageError(
                    f"{better[name]} values of {name} are better",
                    where="pareto",
                    fix=f"write {'-' if sign > 0 else ''}{name}",
                )

    def run(self, job: Job) -> Metrics:
        """Rank the candidates."""
        if self.model is None:
            return self._among_models(job)
        by_name = {metrics.name: metrics for metrics in self.candidates}
        groups = self.repeats or {_variant(name): [name] for name in by_name}
        sign = 1 if self.best == "highest" else -1
        ranked = sorted(
            (self._candidate(name, [by_name[each] for each in of]) for name, of in groups.items()),
            key=lambda candidate: -sign * candidate.score,
        )
        first, *runners_up = ranked
        margin = self._margin(first, runners_up[0]) if runners_up else None
        names = [_variant(metrics.name) for metrics in first.metrics]
        repeats = dict(zip(names, first.scores, strict=True))
        chosen = max(repeats, key=lambda name: sign * repeats[name])
        rows = first.metrics[0].report().rows
        score = f"{self.model}.{self.metric} {first.score:.4g}{_in_words(first.interval)}"
        words = [f"chosen of {len(ranked)}: {first.name}, {score}, {rows} rows", *_ahead(margin)]
        if len(repeats) > 1:
            words.append(
                f"of its {len(repeats)} seeds, {chosen} has the best score, "
                f"{repeats[chosen]:.4g}, so it is chosen"
            )
        is_share = all(metrics.report().is_share(self.metric) for metrics in self.candidates)
        report = Report(
            rows=rows,
            scores={c.name: {self.metric: Score(c.score, c.interval)} for c in ranked},
            unbounded=[] if is_share else [self.metric],
            headline=[self.metric],
            tables=[_table(ranked)] if self.repeats else [],
            words=words,
            intervals_cover=OVER_SEEDS if self.repeats else "",
            extra={CHOSEN: chosen, MARGIN: margin},
        )
        return _write(job, report, {
            "repeats": repeats if self.repeats else None,
            "by": f"{self.model}.{self.metric}",
            "score": first.score,
            "interval": list(first.interval) if first.interval else None,
        })  # fmt: skip

    def _among_models(self, job: Job) -> Metrics:
        """Choose one of the models that the evaluations judged."""
        reports = [metrics.report() for metrics in self.candidates]
        compared = compare_models(reports, self.metric, aims_of(self.pareto))
        scores, beaten = compared.scores, compared.beaten
        sign = 1 if self.best == "highest" else -1
        ranked = sorted(
            scores, key=lambda n: (bool(beaten[n]), -sign * scores[n][self.metric].value)
        )
        chosen, *runners_up = front = [name for name in ranked if not beaten[name]]
        score = scores[chosen][self.metric]
        margin = compared.margin(self.metric, chosen, runners_up[0]) if runners_up else None
        unit = compared.units.get(self.metric)
        best = f"{quantity(score.value, unit)}{_in_words(score.interval, unit)}"
        words = [f"chosen of {len(front)}: {chosen}, {self.metric} {best}", *_ahead(margin, unit)]
        if ruled_out := [name for name in ranked if beaten[name]]:
            words.append(f"ruled out, since another model beats them: {', '.join(ruled_out)}")
        if left_out := compared.left_out:
            words.append(f"not measured in everything: {', '.join(left_out)}")
        report = Report(
            rows=compared.reports[self.metric].rows,
            scores={name: dict(scores[name]) for name in ranked},
            unbounded=compared.unbounded,
            units=compared.units,
            headline=list(compared.reports),
            tables=compared.tables(ranked),
            words=words,
            extra={CHOSEN: chosen, MARGIN: margin},
        )
        by, value, interval = self.metric, score.value, score.interval
        return _write(
            job, report, {"repeats": None, "by": by, "score": value, "interval": interval}
        )

    def _candidate(self, name: str, metrics: Sequence[Metrics]) -> _Candidate:
        assert self.model is not None
        reports = [each.report() for each in metrics]
        scores = []
        for each, report in zip(metrics, reports, strict=True):
            score = report.score(self.model, self.metric)
            if score is None:
                known_models = ", ".join(report.scores.get(self.model, report.scores))
                raise DataError(
                    f"{each.name} has no score {self.model}.{self.metric}",
                    fix=f"choose by one of: {known_models}",
                )
            scores.append(score)
        values = [score.value for score in scores]
        interval = summarise(values).interval if len(values) > 1 else scores[0].interval
        return _Candidate(name, values, interval, metrics)

    def _margin(self, first: _Candidate, second: _Candidate) -> dict[str, Any]:
        """The lead of the best over the next, with a 95 % interval if a method exists."""
        margin = {"over": second.name, "difference": first.score - second.score, "interval": None}
        if len(first.scores) == len(second.scores) > 1:
            pairs = zip(first.scores, second.scores, strict=True)
            margin["interval"] = summarise([a - b for a, b in pairs]).interval
        elif len(first.scores) == len(second.scores) == 1:
            margin["interval"] = self._paired(first, second)
        return margin

    def _paired(self, first: _Candidate, second: _Candidate) -> list[float] | None:
        """The interval of the difference on the same rows; None if unknown."""
        sides = [each.metrics[0] for each in (second, first)]
        pairs = paired(*([line for line in metrics.predictions() if line["model"] == self.model]
                         for metrics in sides))  # fmt: skip
        if pairs.changed or pairs.only_first or pairs.only_second:
            return None
        between = difference_between(pairs, self.metric, *(each.report() for each in sides))
        return None if between is None else list(between.interval)


def _write(job: Job, report: Report, facts: Mapping[str, Any]) -> Metrics:
    """Write and log the choice. facts: about it, for `meta`."""
    for line in report.words:
        job.log(line)
    metrics = Metrics.write(job.out, report)
    chosen, margin = report.extra[CHOSEN], report.extra[MARGIN]
    metrics.meta |= {"chosen": chosen, **facts, "margin": margin}
    return metrics


def _ahead(margin: Mapping[str, Any] | None, unit: str | None = None) -> Iterator[str]:
    """The lead of the best over the next in words, if there is another."""
    if margin is not None:
        difference = margin["difference"]
        sign = "+" if difference > 0 else ""
        text = f"{sign}{quantity(difference, unit)}" if unit else signed(difference, ".4g")
        ahead = f"{text}{_in_words(margin['interval'], unit)}"
        yield f"difference to the next, {margin['over']}: {ahead}"


def _variant(name: str) -> str:
    """The variant in a candidate's name: `r=8` of `test@r=8`."""
    return name.partition("@")[2] or name


def _in_words(interval: Sequence[float] | None, unit: str | None = None) -> str:
    ends = [quantity(end, unit) if unit else f"{end:.3f}" for end in interval or ()]
    return f" (95 % CI {' to '.join(ends)})" if ends else ""


def _table(ranked: Sequence[_Candidate]) -> ReportTable:
    """The repeats of each candidate, best first."""
    rows = [
        [
            each.name,
            each.score,
            summarise(each.scores).deviation,
            *(each.interval or (None, None)),
            len(each.scores),
        ]
        for each in ranked
    ]
    columns = ["variant", "mean", "standard deviation", "95 % CI low", "95 % CI high", "seeds"]
    return ReportTable("Over seeds", columns, rows)


# -- models that several evaluations judged, and which no other one beats in all metrics -----------


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

    scores: model → metric → score. aims: what they are weighed by. left_out: other models.
    """

    reports: Mapping[str, Report]
    scores: Mapping[str, Mapping[str, Score]]
    aims: Aims
    left_out: Sequence[str]

    @property
    def beaten(self) -> dict[str, list[str]]:
        """Model → those that are better in one of the aims and no worse in the others."""
        return {name: [by for by in self.scores if self._beats(by, name)] for name in self.scores}

    def _beats(self, model: str, rival: str) -> bool:
        first, second = self.scores[model], self.scores[rival]
        gains = [sign * (first[m].value - second[m].value) for m, sign in self.aims.items()]
        return any(gain > 0 for gain in gains) and all(gain >= 0 for gain in gains)

    @property
    def unbounded(self) -> list[str]:
        """The metrics that aren't from 0 to 1."""
        return [metric for metric, report in self.reports.items() if not report.is_share(metric)]

    @property
    def units(self) -> dict[str, str]:
        """Metric → its unit, of those that have one."""
        return {m: report.units[m] for m, report in self.reports.items() if m in report.units}

    def margin(self, metric: str, first: str, second: str) -> dict[str, Any]:
        """The lead of a model over another one, with the interval that their evaluation has."""
        test = between(self.reports[metric].pairs, first, second).get(metric)
        return {
            "over": second,
            "difference": self.scores[first][metric].value - self.scores[second][metric].value,
            "interval": None if test is None else list(test.interval),
        }

    def tables(self, ranked: Sequence[str]) -> list[ReportTable]:
        """The table of the models and what beats them; empty if nothing is weighed."""
        if not self.aims:
            return []
        rows = [
            [
                name,
                *(self.scores[name][m].value for m in self.aims),
                ", ".join(self.beaten[name]) or "none",
            ]
            for name in ranked
        ]
        shares = [metric for metric in self.aims if metric not in self.unbounded]
        units = dict.fromkeys(shares, "share") | self.units
        return [ReportTable("Pareto front", ["model", *self.aims, "beaten by"], rows, units=units)]


def compare_models(reports: Sequence[Report], metric: str, aims: Aims) -> Compared:
    """The models that the evaluations judged. metric: to choose by.

    Raises `DataError` for a metric that no evaluation has, or if no model has all of them.
    """
    chosen = {}
    for name in (metric, *aims):
        having = (r for r in reports if any(name in s for s in r.scores.values()))
        if (report := next(having, None)) is None:
            names = dict.fromkeys(m for r in reports for s in r.scores.values() for m in s)
            raise DataError(
                f"no candidate has a score {name}",
                where="metric" if name == metric else "pareto",
                fix=MISSING.get(name) or f"name one of: {', '.join(names)}",
            )
        chosen[name] = report
    models = dict.fromkeys(model for report in reports for model in report.scores)
    scores = {}
    for model in models:
        row = {name: report.score(model, name) for name, report in chosen.items()}
        if None not in row.values():
            scores[model] = {name: Score(s.value, s.interval) for name, s in row.items() if s}
    if not scores:
        raise DataError(
            f"no model has all of {', '.join(chosen)}",
            fix="let all candidates evaluate the same models",
        )
    return Compared(chosen, scores, aims, [model for model in models if model not in scores])
