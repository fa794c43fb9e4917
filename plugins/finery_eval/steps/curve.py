"""`eval.curve`: would more training rows help?"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from finery import DataError, Dataset, Job, Metrics, Model, Rehearsal, UsageError, takes
from finery.advanced import in_points, range_in_points
from finery.rows import Row
from finery.rows.report import Axis, Plot, ReportTable, Series
from finery_eval import stats
from finery_eval.asking import read_rows
from finery_eval.evaluator import evaluate
from finery_eval.measure import Group, Measure
from finery_eval.nested import JudgeEach
from finery_eval.verdicts import Answers, Judging, Verdicts, together

TITLES = ("Learning curve", "What twice the rows would add")
"""Of the tables."""
DRAWN = 12
"""Parts that the line is drawn in."""
STEPS = 50
"""Of Newton's method at most; it takes about five."""
ENOUGH = 1e-10
"""A rise of the logarithm of the likelihood, for each answer, at which the method ends."""
Outcome = tuple[tuple[int, ...], int]
"""Of a test row or a group: the right answers of each model, its rows."""


class Trained(msgspec.Struct, frozen=True):
    """A model of the curve. steps, best_step: of its training; None if unknown."""

    name: str
    rows: int
    steps: int | None = None
    best_step: int | None = None


class Fitted(NamedTuple):
    """The share that the line gives for a number of rows, and its 95 % interval."""

    rows: int
    share: float
    low: float
    high: float


class Growth(msgspec.Struct, frozen=True):
    """The gain in a share from doubling the training rows once more, with its 95 % interval.

    expected: the share with twice the rows of the largest training. line: the fitted curve from the
    smallest training to there.
    """

    a_doubling: float
    interval: stats.Interval
    expected: float
    line: list[Fitted]

    @property
    def is_shown(self) -> bool:
        """Whether the score significantly grows."""
        return self.interval[0] > 0


def growth(
    sizes: Sequence[int], hits: Sequence[Sequence[bool | None]], groups: Sequence[Group] | None
) -> Growth | None:
    """The growth of a share with the logarithm of the rows, by logistic regression.

    hits: for each model, whether each answer counts. The interval is a bootstrap over test rows or
    groups, each with the answers of all models, see `stats.interval_of`. It covers the choice of
    test rows, but not of training rows or the seed. None if a row doesn't count for all models.
    """
    if any(hit is None for model_hits in hits for hit in model_hits):
        return None
    alone = groups if groups is not None else [[i] for i in range(len(hits[0]))]
    outcomes: list[Outcome] = [
        (tuple(sum(bool(hit[i]) for i in group) for hit in hits), len(group)) for group in alone
    ]
    # The line is drawn at even distances of the logarithms, up to twice the largest.
    smallest, largest = min(sizes), max(sizes)
    between = (round(smallest * (2 * largest / smallest) ** (i / DRAWN)) for i in range(1, DRAWN))
    drawn = sorted({smallest, *between, 2 * largest})
    logs = [math.log2(size / largest) for size in sizes]
    at = [math.log2(rows / largest) for rows in drawn]

    def line(counts: Mapping[Outcome, int]) -> list[float]:
        right = [
            sum(times * of_group[i] for (of_group, _), times in counts.items())
            for i in range(len(sizes))
        ]
        answers = sum(times * n for (_, n), times in counts.items())
        start, slope = logistic(logs, right, answers)
        return [
            _share(start + slope) - _share(start),
            *(_share(start + slope * x) for x in at),
        ]

    value, *shares = line(Counter(outcomes))
    added, *at_rows = stats.resampled(outcomes, line)
    interval = stats.interval_of(added, len(outcomes), stats.GAIN)
    band = [stats.interval_of(draws, len(outcomes), stats.SHARE) for draws in at_rows]
    fitted = [
        Fitted(rows, share, *ends) for rows, share, ends in zip(drawn, shares, band, strict=True)
    ]
    return Growth(value, interval, fitted[-1].share, fitted)


def logistic(x: Sequence[float], right: Sequence[int], answers: int) -> tuple[float, float]:
    """(intercept, slope) of the log odds of a right answer over x, by maximum likelihood.

    right: of `answers` answers at each x; two of the x differ at least. Half an answer of each kind
    is added at each x, so that shares of 0 and 1 have log odds too.

    Sources: P. McCullagh and J. A. Nelder, "Generalized Linear Models" (1989), ch. 4.4: Newton's
    method; F. J. Anscombe, "On estimating binomial response relations", Biometrika 43 (1956)
    461-464: the added halves.
    """
    n, counts = answers + 1, [count + 0.5 for count in right]
    line, before = (0.0, 0.0), _likelihood(x, counts, n, 0.0, 0.0)
    for _ in range(STEPS):
        by, scale = _newton(x, counts, n, *line), 1.0
        while True:
            after = line[0] + scale * by[0], line[1] + scale * by[1]
            rise = _likelihood(x, counts, n, *after) - before
            if rise > -ENOUGH * n:
                break
            scale /= 2  # a full step can go too far
        line, before = after, before + rise
        if rise < ENOUGH * n:
            break
    return line


def _newton(
    x: Sequence[float], counts: Sequence[float], n: int, start: float, slope: float
) -> tuple[float, float]:
    """By how much a step of Newton's method changes intercept and slope."""
    shares = [_share(start + slope * each) for each in x]
    gaps = [count - n * share for count, share in zip(counts, shares, strict=True)]
    weights = [n * share * (1 - share) for share in shares]
    a, b, c = (
        math.fsum(w * each**power for w, each in zip(weights, x, strict=True)) for power in range(3)
    )
    u, v = math.fsum(gaps), math.fsum(gap * each for gap, each in zip(gaps, x, strict=True))
    determinant = a * c - b * b
    return (c * u - b * v) / determinant, (a * v - b * u) / determinant


def _likelihood(
    x: Sequence[float], counts: Sequence[float], n: int, start: float, slope: float
) -> float:
    """The logarithm of it, less a constant."""
    odds = [start + slope * each for each in x]
    return math.fsum(
        count * row_odds - n * (max(row_odds, 0) + math.log1p(math.exp(-abs(row_odds))))
        for count, row_odds in zip(counts, odds, strict=True)
    )


def _share(log_odds: float) -> float:
    return (1 + math.tanh(log_odds / 2)) / 2


def curve_of(
    trained: Sequence[Trained], verdicts: Verdicts, groups: Sequence[Group] | None
) -> dict[str, Growth]:
    """Metric → its growth, for the displayed metrics that are shares."""
    sizes = [each.rows for each in trained]
    curve: dict[str, Growth] = {}
    for metric in verdicts.headline:
        values = verdicts.values(metric)
        hits = [values[each.name] for each in trained]
        is_share = all(isinstance(value, bool) for model_hits in hits for value in model_hits)
        if is_share and (grown := growth(sizes, hits, groups)) is not None:
            curve[metric] = grown
    return curve


def advice(trained: Sequence[Trained], metric: str, grown: Growth) -> list[str]:
    """In words, what would help most: more rows, more epochs or a larger model."""
    largest = max(trained, key=lambda each: each.rows)
    interval = range_in_points(grown.interval)
    verdict = "More rows help" if grown.is_shown else "More rows aren't shown to help"
    more = (
        f"{verdict}: {2 * largest.rows:,} in place of {largest.rows:,} are expected to change "
        f"{metric} by {in_points(grown.a_doubling)} points (95 % CI {interval}), to about "
        f"{100 * grown.expected:.0f} %"
    )
    if largest.steps is None or largest.best_step is None:
        epochs = "Whether more epochs would help isn't known: give the training validation rows"
    elif largest.best_step >= largest.steps:
        epochs = "More epochs may help, so try them first: "
        epochs += f"{largest.name} was best at its last step, {largest.steps}"
    else:
        conclusion = "" if grown.is_shown else ". So a larger model is the next thing to try"
        epochs = f"More epochs won't help: {largest.name} was best at step {largest.best_step} of "
        epochs += f"{largest.steps}{conclusion}"
    return [more, epochs]


def tables_of(
    trained: Sequence[Trained], measure: Measure, curve: Mapping[str, Growth], metric: str
) -> list[ReportTable]:
    """The score of each model in a metric by its rows, and the growth of each metric."""
    points = [
        [model.rows, model.name, score.value, *(score.interval or ())]
        for model in trained
        if (score := measure.score(model.name)) is not None
    ]
    ends = ["95 % CI low", "95 % CI high"]
    shares = dict.fromkeys([metric, *ends, "with twice the rows"], "share")
    grown = [[name, g.a_doubling, *g.interval, g.expected] for name, g in curve.items()]
    columns = ["metric", "added (points)", *ends, "with twice the rows"]
    growths = {**dict.fromkeys(columns[1:4], "difference"), columns[4]: "share"}
    return [
        ReportTable(TITLES[0], ["rows", "model", metric, *ends], points, units=shares),
        ReportTable(TITLES[1], columns, grown, units=growths),
    ]


def curve_plot(trained: Sequence[Trained], measure: Measure, grown: Growth, metric: str) -> Plot:
    """The scores by rows, and the fitted curve."""
    scores = [(model.rows, score) for model in trained if (score := measure.score(model.name))]
    fitted = Series(
        "fitted curve, with its 95 % CI",
        [(point.rows, point.share) for point in grown.line],
        band=[(point.rows, point.low, point.high) for point in grown.line],
    )
    points = Series(
        f"{metric}, with 95 % CI",
        [(rows, score.value) for rows, score in scores],
        "dots",
        [(rows, *score.interval) for rows, score in scores if score.interval],
    )
    axis = Axis("training rows", scale="linear")
    return Plot([fitted, points], axis, Axis(metric, "share"), TITLES[0])


class CurveResult(msgspec.Struct):
    """The trainings by their rows, the growth of each metric, and what follows in words."""

    points: list[Trained]
    growth: dict[str, Growth]
    words: list[str]


CURVE = "curve"
"""Its name among a report's `extra`."""
ROWS = "rows"
"""The fact that says how many rows a model was trained on."""


class Curve(JudgeEach, engines=True):
    """Draw the learning curve: judge one training on several numbers of rows.

    The models are trainings that differ only in the number of their rows, e.g. on a quarter, half
    and all of them (`data.sample`), under one seed. The evaluator in `each` judges them. The result
    has the scores by rows and, for each metric that is a share, an estimate of what twice the rows
    would add: from a logistic regression on the logarithm of the rows, with a 95 % bootstrap
    interval over the test rows. It says whether more rows, more epochs or a larger model would help
    most.

    The interval covers the choice of test rows, but not the choice of training rows and the seed,
    so a curve of three trainings only shows a trend.

    Raises DataError for models whose number of training rows isn't known, or is the same.
    """

    models: list[Model] = takes(
        uses_name=True, help="Trainings on different numbers of rows, at least two."
    )
    rows: Dataset = takes(help="Rows to judge them on, e.g. `split.validation`.")

    def metric_names(self) -> list[str]:
        """The metrics of each model; the first one decides."""
        return self.inner().evaluator.metric_names()

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        inner = self.inner()
        if len(self.models) < 2:
            raise UsageError(
                "a curve needs two models or more", where="models", fix="models: [half, sft]"
            )
        super().check()
        inner.check(asks=True)

    def prepare(self, job: Job) -> tuple[list[Row], Judging]:
        """The rows, and what judges the answers to them."""
        rows = read_rows(self.rows)
        return rows, self.inner().judging(job, rows)

    def rehearsal(self) -> Rehearsal:
        """Draw the curve although all trainings had few rows."""
        return Rehearsal(run=self.rehearse)

    def rehearse(self, job: Job) -> Metrics:
        """Run as if the trainings had different numbers of rows."""
        for index, model in enumerate(self.models):
            model.meta |= {ROWS: 2**index} if ROWS in model.meta else {}
        return self.run(job)

    def run(self, job: Job) -> Metrics:
        """Judge the models, fit the line, write the metrics."""
        trained = [trained_of(model) for model in self.models]
        if len({each.rows for each in trained}) < 2:
            raise DataError(
                f"all models were trained on {trained[0].rows:,} rows",
                where="models",
                fix="train on different numbers of rows, e.g. with data.sample",
            )
        rows, judge = self.prepare(job)

        def judge_sizes(answers: Answers) -> Verdicts:
            return with_curve(job, trained, judge(answers), together(rows))

        return evaluate(self.inner().evaluator, job, rows, judge_sizes)


def with_curve(
    job: Job, trained: Sequence[Trained], verdicts: Verdicts, groups: Sequence[Group] | None
) -> Verdicts:
    """The verdicts with the curve of each metric, and with what follows in words."""
    first = verdicts.headline[0]
    curve = curve_of(trained, verdicts, groups)
    words = advice(trained, first, curve[first]) if first in curve else []
    for line in words:
        job.log(line)
    points = sorted(trained, key=lambda model: model.rows)
    measure = verdicts.measure(first, groups)
    tables = tables_of(points, measure, curve, first)
    report = msgspec.structs.replace(
        verdicts.report,
        plots=[curve_plot(points, measure, curve[first], first)] if first in curve else [],
        words=words,
        extra=verdicts.report.extra | {CURVE: CurveResult(points, curve, words)},
    )
    return verdicts._replace(tables=[*tables, *verdicts.tables], report=report)


def trained_of(model: Model) -> Trained:
    """The facts of a model's training. Raises `DataError` if its rows weren't counted."""
    rows = model.meta.get(ROWS)
    if not isinstance(rows, int):
        raise DataError(
            f"it isn't known how many rows {model.name} was trained on",
            where="models",
            fix="name trainings (trl.sft) or baselines, not their exports",
        )
    validated = "eval_loss" in model.meta or "watch" in model.meta
    steps, best = model.meta.get("steps"), model.meta.get("best_step")
    return Trained(model.name, rows, *((steps, best) if validated else (None, None)))
