"""Curves as small SVG: panels one below the other over the same steps, in percent of their size.

Only geometry: `curve.html.jinja` draws it. Nothing runs in the page, so what a step's values are is
said by narrow fields that are pointed at.
"""

from collections.abc import Sequence
from typing import NamedTuple

from finery_trl.view.axis import Axis, round_steps
from finery_trl.view.curves import Series

ZOOMS = (1, 4, 16)
"""How many times the width of the page the steps may take."""
STEPS_A_ZOOM = 60
"""Steps from which on the next zoom helps."""
TICKS = 8
"""Steps that are named in the page's width."""
FIELDS, LINES = 400, 4000
"""At most so many fields that show the values, with so many lines of text in all."""
POINTS, FEWEST_POINTS = 12_000, 200
"""Points of all curves together, and the fewest of a curve: at most some 300 KB of a page. More
would not be seen: the page is 1,000 pixels wide, 16,000 when it is zoomed."""


class Curve(NamedTuple):
    """A series to draw. colour: its index. faint: a thin line. marks: a dot on each value."""

    label: str
    values: Series
    colour: int
    faint: bool = False
    marks: bool = False


class Drawn(NamedTuple):
    """A curve as SVG has it: the points of a line, and the path of its dots."""

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
    """Panels, and what is below them.

    ticks: for each zoom (place from 0 to 1, label). fields: (left, width in percent, text). kept:
    where the kept step is, in percent.
    """

    panels: list[Panel]
    ticks: list[tuple[int, list[tuple[float, str]]]]
    fields: list[tuple[float, float, str]]
    kept: float | None


class Span(NamedTuple):
    """The steps that a chart shows."""

    first: int
    last: int

    def across(self, step: float) -> float:
        """Where a step is, in percent."""
        return 100 * (step - self.first) / ((self.last - self.first) or 1)


def span_of(curves: Sequence[Curve]) -> Span:
    """All steps of some curves, from 0 where the first is near it."""
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

    zero: whether its axis begins at 0. best: the (step, value) that gets a star. most: points of a
    curve, see `points_of_each`.
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
    """A chart of panels. curves: all that are in them, as a field tells them."""
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
    """How many points each of so many curves may have."""
    return max(FEWEST_POINTS, POINTS // max(1, curves))


def thinned(values: Series, most: int) -> Series:
    """At most `most` of the values (4 or more), in order, that draw the same line.

    The steps are divided into equal parts; the lowest and the highest value of each are kept, so
    that no peak is lost, and the first and the last of all.
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
    # More dots would be a thick line.
    dotted = (curve.marks and len(curve.values) <= min(FIELDS, most // 2)) or len(spots) == 1
    return Drawn(curve, points, "".join(f"M{x:.2f},{y:.2f}h0" for x, y in spots if dotted))


def _down(axis: Axis, value: float) -> float:
    """The distance of a value from the top, in percent; a little room at both ends."""
    return 4 + 92 * (1 - axis.place(value))


def _fields(curves: Sequence[Curve], span: Span) -> list[tuple[float, float, str]]:
    """Fields side by side, each with the newest values up to its last step."""
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
    """The last value up to each of some ascending steps, None where there is no newer one."""
    newest: list[float | None] = [None] * len(ends)
    index = 0
    for step, value in values:
        while index < len(ends) and step > ends[index]:
            index += 1
        if index < len(ends):
            newest[index] = value
    return newest
