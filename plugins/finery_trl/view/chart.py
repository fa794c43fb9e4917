"""The geometry of curves in SVG: stacked panels over the same steps, in percent of their size.

`curve.html.jinja` draws it. The page runs no scripts, so narrow fields with tooltips show the
values of a step.
"""

from collections.abc import Sequence
from typing import NamedTuple

from finery.views import OldAxis as Axis
from finery.views import Span, round_steps
from finery_trl.view.curves import Series

ZOOMS = (1, 4, 16)
"""Zoom levels: multiples of the page's width."""
STEPS_A_ZOOM = 60
"""Number of steps from which the next zoom level helps."""
TICKS = 8
"""Labeled steps per page width."""
FIELDS, LINES = 400, 4000
"""Limits of the fields that show values, and of their lines of text in all."""
POINTS, FEWEST_POINTS = 12_000, 200
"""Limit of the points of all curves together, and the minimum per curve: about 300 KB of a page.
More points wouldn't be visible, since a page is 1,000 pixels wide, and 16,000 when zoomed."""


class Curve(NamedTuple):
    """A series to draw. colour: its index. faint: a thin line. marks: a dot at each value."""

    label: str
    values: Series
    colour: int
    faint: bool = False
    marks: bool = False


class Drawn(NamedTuple):
    """A curve in SVG: the points of a line, and the path of its dots."""

    curve: Curve
    points: str
    dots: str


class Panel(NamedTuple):
    """Curves over one vertical axis. grid: (distance from the top in percent, label)."""

    title: str
    curves: list[Drawn]
    grid: list[tuple[float, str]]
    best: tuple[float, float] | None = None


class Chart(NamedTuple):
    """Panels with a common axis of steps.

    ticks: per zoom level, (place from 0 to 1, label). fields: (left, width in percent, text). kept:
    the place of the kept step, in percent.
    """

    panels: list[Panel]
    ticks: list[tuple[int, list[tuple[float, str]]]]
    fields: list[tuple[float, float, str]]
    kept: float | None


def span_of(curves: Sequence[Curve]) -> Span:
    """The steps of some curves, from 0 if the first step is near 0."""
    steps = [step for curve in curves for step, _ in curve.values]
    first, last = min(steps), max(steps)
    return Span(0 if 0 <= first <= last / 10 else first, last)


def panel_of(
    title: str,
    curves: Sequence[Curve],
    span: Span,
    *,
    log: bool = False,
    zero: bool = False,
    best: tuple[int, float] | None = None,
    most: int = POINTS,
) -> Panel:
    """A panel.

    zero: whether its axis begins at 0. best: the (step, value) that gets a star. most: limit of the
    points per curve, see `points_of_each`.
    """
    values = [value for curve in curves for _, value in curve.values]
    axis = Axis.of([*values, 0.0] if zero else values, log=log)
    drawn = [_drawn(curve, span, axis, most) for curve in curves]
    grid = [(_down(axis, value), f"{value:.3g}") for value in axis.ticks()]
    star = (span.across(best[0]), _down(axis, best[1])) if best is not None else None
    return Panel(title, drawn, grid, star)


def chart_of(
    panels: Sequence[Panel], curves: Sequence[Curve], span: Span, kept: int | None
) -> Chart:
    """A chart of panels. curves: all curves in them, in the order of the fields' text."""
    steps = len({step for curve in curves for step, _ in curve.values})
    zooms = [z for z in ZOOMS if z == 1 or steps > STEPS_A_ZOOM * z / 4]
    ticks = [(z, [(span.across(n) / 100, f"{n:,}") for n in round_steps(span, TICKS * z)])
             for z in zooms]  # fmt: skip
    return Chart(
        list(panels),
        ticks,
        _fields(curves, span),
        span.across(kept) if kept is not None and span.first <= kept <= span.last else None,
    )


def points_of_each(curves: int) -> int:
    """The limit of points per curve, for this number of curves."""
    return max(FEWEST_POINTS, POINTS // max(1, curves))


def thinned(values: Series, most: int) -> Series:
    """At most `most` of the values (4 or more), in order, that draw about the same line.

    The values are divided into equal parts. The lowest and the highest value of each part are kept,
    so that no peak is lost, and the first and last of all.
    """
    if len(values) <= most:
        return values
    parts = (most - 2) // 2
    size = -(-len(values) // parts)
    kept = {0, len(values) - 1}
    for start in range(0, len(values), size):
        part = range(start, min(start + size, len(values)))
        kept |= {min(part, key=lambda i: values[i][1]), max(part, key=lambda i: values[i][1])}
    return [values[i] for i in sorted(kept)]


def _drawn(curve: Curve, span: Span, axis: Axis, most: int) -> Drawn:
    values = thinned(curve.values, most)
    spots = [(span.across(step), _down(axis, value)) for step, value in values]
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in spots)
    # More dots would merge into a thick line.
    dotted = (curve.marks and len(curve.values) <= min(FIELDS, most // 2)) or len(spots) == 1
    return Drawn(curve, points, "".join(f"M{x:.2f},{y:.2f}h0" for x, y in spots if dotted))


def _down(axis: Axis, value: float) -> float:
    """The distance of a value from the top in percent, with some space at both ends."""
    return 4 + 92 * (1 - axis.place(value))


def _fields(curves: Sequence[Curve], span: Span) -> list[tuple[float, float, str]]:
    """Adjacent fields, each with the newest values up to its last step."""
    steps = sorted({step for curve in curves for step, _ in curve.values})
    every = -(-len(steps) // min(FIELDS, max(1, LINES // (1 + len(curves)))))
    ends = [*steps[every - 1 :: every], *([steps[-1]] if len(steps) % every else [])]
    newest = [_newest(curve.values, ends) for curve in curves]
    fields, left = [], 0.0
    for index, (end, after) in enumerate(zip(ends, ends[1:] + ends[-1:], strict=True)):
        right = span.across((end + after) / 2)
        values = [(c.label, v[index]) for c, v in zip(curves, newest, strict=True)]
        named = [f"{label}: {value:.4g}" for label, value in values if value is not None]
        fields.append((left, right - left, "\n".join([f"step {end:,}", *named])))
        left = right
    return fields


def _newest(values: Series, ends: Sequence[int]) -> list[float | None]:
    """The last value at or before each of some ascending steps; None if there is none."""
    newest: list[float | None] = [None] * len(ends)
    index = 0
    for step, value in values:
        while index < len(ends) and step > ends[index]:
            index += 1
        if index < len(ends):
            newest[index] = value
    return newest
