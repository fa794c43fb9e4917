"""The learning curve of `eval.curve` as a plot: scores by training rows, with the fitted curve."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from finery.rows.report import Report
from finery_eval.steps.curve import CURVE, CurveResult
from finery_eval.view.tables import headline

if TYPE_CHECKING:
    from rich.text import Text

WIDEST, HEIGHT = 90, 16
"""Of the plot in a terminal, in characters."""
ACROSS = "training rows"


class Learned(NamedTuple):
    """The data of a plot, in percent. scores: (rows, score, low, high) of each training.

    line: the fitted curve, in the same form.
    """

    metric: str
    scores: list[tuple[int, float, float, float]]
    line: list[tuple[int, float, float, float]]


def learned(report: Report) -> Learned | None:
    """The plot of the first metric; None for other evaluations."""
    curve, metric = report.part(CURVE, CurveResult), next(iter(headline(report)), "")
    grown = curve.growth.get(metric) if curve else None
    if curve is None or grown is None or not grown.line:
        return None
    points = []
    for point in curve.points:
        score = report.scores[point.name][metric]
        points.append(_in_percent(point.rows, score.value, *(score.interval or ())))
    return Learned(metric, points, [_in_percent(*fitted) for fitted in grown.line])


def _in_percent(rows: int, *shares: float) -> tuple[int, float, float, float]:
    value, low, high = (100 * share for share in shares)
    return rows, value, low, high


def plotted(of: Learned, width: int) -> "list[Text]":
    """The plot as lines of text. width: of the terminal."""
    from finery.views import Line, plot

    lines = [
        Line("95 % CI of the curve", [(rows, low) for rows, _, low, _ in of.line], "dim cyan"),
        Line("", [(rows, high) for rows, *_, high in of.line], "dim cyan"),
        Line("fitted curve", [(rows, value) for rows, value, *_ in of.line], "cyan"),
        Line(f"{of.metric} in %", [(rows, v) for rows, v, *_ in of.scores], "bold yellow", "●"),
    ]
    return plot(lines, min(width, WIDEST), HEIGHT, across=ACROSS, log=False)


class Drawing(NamedTuple):
    """The plot in SVG: points in percent of its size.

    scores: (x, y, top and bottom of its interval, tooltip). grid: (from the top, label). ticks:
    (from 0 to 1, label).
    """

    metric: str
    line: str
    band: str
    scores: list[tuple[float, float, float, float, str]]
    grid: list[tuple[float, str]]
    ticks: list[tuple[float, str]]


def drawn(of: Learned) -> Drawing:
    """The plot for a page."""
    from finery.views import OldAxis as Axis
    from finery.views import Span, round_steps

    values = [value for each in (*of.scores, *of.line) for value in each[1:]]
    axis, span = Axis.of(values, log=False), Span(of.line[0][0], of.line[-1][0])

    def down(value: float) -> float:
        return 4 + 92 * (1 - axis.place(value))

    def points(values: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{span.across(rows):.2f},{down(value):.2f}" for rows, value in values)

    upper = [(rows, high) for rows, *_, high in of.line]
    lower = [(rows, low) for rows, _, low, _ in of.line]
    scores = [
        (span.across(rows), down(value), down(high), down(low),
         f"{rows:,} rows: {value:.1f} % (95 % CI {low:.1f} – {high:.1f})")
        for rows, value, low, high in of.scores
    ]  # fmt: skip
    return Drawing(
        of.metric,
        points([(rows, value) for rows, value, *_ in of.line]),
        points([*upper, *reversed(lower)]),
        scores,
        [(down(value), f"{value:.3g} %") for value in axis.ticks()],
        [(span.across(n) / 100, f"{n:,}") for n in round_steps((span.first, span.last), 6)],
    )
