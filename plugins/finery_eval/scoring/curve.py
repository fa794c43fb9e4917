"""The learning curve: how a score grows with the number of training rows."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finery import in_points, range_in_points
from finery_eval import stats
from finery_eval.scoring.groups import Group
from finery_eval.scoring.tables import Unit, table
from finery_eval.verdicts import Hit, Judged

DRAWN = 12
"""Parts that the line is drawn in."""
Outcome = tuple[float, float, int]
"""Of a test row or a group: its slope, the mean of right answers over the models, its rows."""


class Trained(NamedTuple):
    """A model of the curve. steps, best_step: of its training, None where it isn't known."""

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


class Growth(NamedTuple):
    """What each doubling of the training rows adds to a share, and its 95 % interval.

    expected: the share with twice the rows of the largest training, if it goes on like this. line:
    from the smallest training to there.
    """

    a_doubling: float
    interval: stats.Interval
    expected: float
    line: list[Fitted]

    @property
    def is_shown(self) -> bool:
        """Whether the score is shown to grow."""
        return self.interval[0] > 0


def growth(
    sizes: Sequence[int], hits: Sequence[Sequence[Hit]], groups: Sequence[Group] | None
) -> Growth | None:
    """The slope of a share over the binary logarithm of the rows, by least squares.

    hits: of each model, whether each answer counts. Each test row has a slope of its own, and their
    mean is that of the share. So the interval is a bootstrap over test rows or groups; it covers
    the choice of test rows, not that of training rows or the seed. The line goes through the mean
    share at the mean logarithm, both of the same resample. None where a row doesn't count for all
    models.
    """
    if any(hit is None for of in hits for hit in of):
        return None
    logs = [math.log2(size) for size in sizes]
    mean = math.fsum(logs) / len(logs)
    spread = math.fsum((x - mean) ** 2 for x in logs)
    weights = [(x - mean) / spread for x in logs]
    alone = groups if groups is not None else [[i] for i in range(len(hits[0]))]
    outcomes = [_outcome(hits, weights, group) for group in alone]
    drawn = _rows_drawn(sizes)

    def line(counts: Mapping[Outcome, int]) -> list[float]:
        slope, centre = _line(counts)
        return [slope, *(centre + slope * (math.log2(rows) - mean) for rows in drawn)]

    value, *shares = line(Counter(outcomes))
    interval, *band = stats.bootstrap(outcomes, line)
    fitted = [
        Fitted(rows, *map(_as_share, (share, *ends)))
        for rows, share, ends in zip(drawn, shares, band, strict=True)
    ]
    return Growth(value, interval, fitted[-1].share, fitted)


def _outcome(
    hits: Sequence[Sequence[Hit]], weights: Sequence[float], group: Sequence[int]
) -> Outcome:
    counts = [sum(bool(of[i]) for i in group) for of in hits]
    slope = math.fsum(w * count for w, count in zip(weights, counts, strict=True))
    return round(slope, 12), sum(counts) / len(hits), len(group)


def _line(counts: Mapping[Outcome, int]) -> tuple[float, float]:
    """(slope, share at the mean logarithm)."""
    answers = sum(times * n for (*_, n), times in counts.items())
    slope = math.fsum(times * slope for (slope, *_), times in counts.items())
    right = math.fsum(times * right for (_, right, _), times in counts.items())
    return slope / answers, right / answers


def _rows_drawn(sizes: Sequence[int]) -> list[int]:
    """Numbers of rows at even distances of their logarithms, up to twice the largest."""
    low, high = min(sizes), 2 * max(sizes)
    between = (round(low * (high / low) ** (i / DRAWN)) for i in range(1, DRAWN))
    return sorted({low, *between, high})


def _as_share(value: float) -> float:
    return min(1.0, max(0.0, value))


def curve_of(
    trained: Sequence[Trained],
    judged: Mapping[str, Judged],
    metrics: Sequence[str],
    groups: Sequence[Group] | None,
) -> dict[str, Growth]:
    """Metric → its growth, for the metrics that are shares."""
    sizes = [each.rows for each in trained]
    found: dict[str, Growth] = {}
    for metric in metrics:
        hits = [judged[each.name].hits.get(metric) for each in trained]
        if all(of is not None for of in hits):
            grown = growth(sizes, [of for of in hits if of is not None], groups)
            if grown is not None:
                found[metric] = grown
    return found


def advice(trained: Sequence[Trained], metric: str, grown: Growth) -> list[str]:
    """In words, what would help most: more rows, more epochs or a larger model."""
    largest = max(trained, key=lambda each: each.rows)
    interval = range_in_points(grown.interval)
    points = f"{in_points(grown.a_doubling)} points (95 % CI {interval})"
    lines = []
    if grown.is_shown:
        lines.append(
            f"More rows help: each doubling changed {metric} by {points}. With "
            f"{2 * largest.rows:,} rows, about {100 * grown.expected:.0f} % can be expected"
        )
    else:
        lines.append(f"More rows aren't shown to help: each doubling changed {metric} by {points}")
    return [*lines, _of_epochs(largest, helps=grown.is_shown)]


def _of_epochs(largest: Trained, *, helps: bool) -> str:
    if largest.steps is None or largest.best_step is None:
        return "Whether more epochs would help isn't known: give the training validation rows"
    if largest.best_step >= largest.steps:
        return (
            f"More epochs may help, so try them first: {largest.name} was best at its last step, "
            f"{largest.steps}"
        )
    what = "" if helps else ". So a larger model is the next thing to try"
    return (
        f"More epochs won't help: {largest.name} was best at step {largest.best_step} of "
        f"{largest.steps}{what}"
    )


def tables_of(
    trained: Sequence[Trained],
    scores: Mapping[str, Mapping[str, tuple[float, stats.Interval]]],
    curve: Mapping[str, Growth],
    metric: str,
) -> list[dict[str, Any]]:
    """The score of each model by its rows, and the growth of each metric."""
    points = [
        [each.rows, each.name, scores[each.name][metric][0], *scores[each.name][metric][1]]
        for each in sorted(trained, key=lambda each: each.rows)
    ]
    ends = ["95 % CI low", "95 % CI high"]
    shares: dict[str, Unit] = dict.fromkeys([metric, *ends, "with twice the rows"], "share")
    grown = [[name, g.a_doubling, *g.interval, g.expected] for name, g in curve.items()]
    growths: dict[str, Unit] = dict.fromkeys(["a doubling (points)", *ends], "difference")
    growths["with twice the rows"] = "share"
    columns = ["metric", "a doubling (points)", *ends, "with twice the rows"]
    return [
        table("Learning curve", ["rows", "model", metric, *ends], points, units=shares),
        table("What each doubling of the rows adds", columns, grown, units=growths),
    ]
