"""`eval.select`: which of several candidates is best, and by how much."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from finery import DataError, Job, Metrics, Step, UsageError, outside_key, setting, takes
from finery.advanced import did_you_mean, quantity, signed
from finery.rows.repeats import summarise
from finery.rows.report import Interval, Report, Score, Table
from finery_eval.pareto import aims_of, compare_models
from finery_eval.predictions import difference_between, paired
from finery_eval.tables import table

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
            what, fix = "`pareto` is for a choice among models", "remove `model` or `pareto`"
            raise UsageError(what, where="pareto", fix=fix)
        if self.repeats and not self.model:
            what = "`repeats` is for evaluations of one model"
            raise UsageError(what, where="repeats", fix="name it with `model`")
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
        better = {name: of for meta in metas for name, of in meta.get("better", {}).items()}
        aims = [name.removeprefix("-") for name in self.pareto]
        if twice := [name for name in aims if aims.count(name) > 1]:
            what = f"`pareto` has {twice[0]} twice"
            raise UsageError(what, where="pareto", fix="name each metric once")
        for where, name in [("metric", self.metric), *(("pareto", aim) for aim in aims)]:
            measured = {metric for meta in metas for metric in meta.get("metrics", ())}
            if name not in measured and all("metrics" in meta for meta in metas):
                what = f"the candidates have no metric '{name}'"
                raise UsageError(what, where=where, fix=did_you_mean(name, measured))
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
        first, *others = ranked
        margin = self._margin(first, others[0]) if others else None
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
            scores={of.name: {self.metric: Score(of.score, of.interval)} for of in ranked},
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
        ranked = sorted(scores, key=lambda n: (bool(beaten[n]), -sign * scores[n][self.metric]))
        chosen, *others = front = [name for name in ranked if not beaten[name]]
        score, interval = scores[chosen][self.metric], compared.interval(chosen, self.metric)
        margin = compared.margin(self.metric, chosen, others[0]) if others else None
        unit = compared.units.get(self.metric)
        best = f"{chosen}, {self.metric} {quantity(score, unit)}{_in_words(interval, unit)}"
        words = [f"chosen of {len(front)}: {best}", *_ahead(margin, unit)]
        if ruled_out := [name for name in ranked if beaten[name]]:
            words.append(f"ruled out, since another model beats them: {', '.join(ruled_out)}")
        if left_out := compared.left_out:
            words.append(f"not measured in everything: {', '.join(left_out)}")
        report = Report(
            rows=compared.reports[self.metric].rows,
            scores={
                name: {m: Score(v, compared.interval(name, m)) for m, v in scores[name].items()}
                for name in ranked
            },
            unbounded=compared.unbounded,
            units=compared.units,
            headline=list(compared.reports),
            tables=compared.tables(ranked),
            words=words,
            extra={CHOSEN: chosen, MARGIN: margin},
        )
        facts = {"repeats": None, "by": self.metric, "score": score, "interval": interval}
        return _write(job, report, facts)

    def _candidate(self, name: str, metrics: Sequence[Metrics]) -> _Candidate:
        assert self.model is not None
        reports = [each.report() for each in metrics]
        scores = []
        for each, report in zip(metrics, reports, strict=True):
            score = report.score(self.model, self.metric)
            if score is None:
                known = ", ".join(report.scores.get(self.model, report.scores))
                raise DataError(
                    f"{each.name} has no score {self.model}.{self.metric}",
                    fix=f"choose by one of: {known}",
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


def _table(ranked: Sequence[_Candidate]) -> Table:
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
    return table("Over seeds", columns, rows)
