"""The geometry of plots on pages: stacked panels over the same horizontal axis, in percent.

`section.html.jinja` draws it. No script draws plots, so narrow fields with tooltips show the values
at an x.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from msgspec.structs import replace

from finery.rows.report import Axis, Plot, Series
from finery.views.scales import Panel, Scale, horizontal_scale, panels_of, tick_text

TICKS = 8
"""Labels of the horizontal axis."""
ZOOMS = (1, 4, 16)
"""Multiples of the page's width."""
PLACES_A_ZOOM = 60
"""Number of different x from which the next zoom level helps."""
FIELDS, LINES = 400, 4000
"""Limits of the fields that show values, and of their lines of text in all."""
POINTS, FEWEST_POINTS = 10_000, 200
"""Limit of the points of all series together, and the minimum per series: about 300 KB of a page.
More points wouldn't be visible, since a page is 1,000 pixels wide."""
Points = Sequence[tuple[float, float]]


class DrawnSeries(NamedTuple):
    """A series in SVG: the points of its line, the path of its dots, and its band.

    band: the points of a polygon. bars: (x, top, bottom) of the interval of each dot.
    """

    series: Series
    line: str
    dots: str
    band: str
    bars: list[tuple[float, float, float]]


class DrawnPanel(NamedTuple):
    """The series over one vertical axis. grid: (distance from the top in percent, label)."""

    title: str
    series: list[DrawnSeries]
    grid: list[tuple[float, str]]
    star: tuple[float, float] | None


class Drawing(NamedTuple):
    """A plot in SVG.

    zooms: zoom level → (place from 0 to 1, label) of each tick. fields: (left, width in percent,
    text). at: the place that is marked, in percent. scale: which of a plot's scales it shows.
    """

    scale: str
    panels: list[DrawnPanel]
    zooms: dict[int, list[tuple[float, str]]]
    fields: list[tuple[float, float, str]]
    at: float | None
    caption: str


def drawings_of(plot: Plot) -> list[Drawing]:
    """The geometry of a plot, by scale if a reader may choose it, the better one first.

    Empty if there is nothing to draw.
    """
    panels = panels_of(plot)
    scale = next((panel.scale for panel in panels if panel.axis == plot.y), None)
    if plot.y.scale != "choice" or scale is None or scale.low <= 0:
        return [_drawing(plot, panels)] if panels else []
    names: list[Literal["linear", "log"]] = ["log", "linear"] if scale.is_log else ["linear", "log"]
    plots = [replace(plot, y=replace(plot.y, scale=name)) for name in names]
    return [_drawing(each, panels_of(each)) for each in plots]


def _drawing(plot: Plot, panels: Sequence[Panel]) -> Drawing:
    across = horizontal_scale(panels, plot.x)
    series = [(each, panel.axis) for panel in panels for each in panel.series]
    most = max(FEWEST_POINTS, POINTS // len(series))
    at = plot.at[0] if plot.at and across.low <= plot.at[0] <= across.high else None
    is_log = across.is_log
    places = len({x for each, _ in series for x, _ in each.points})
    zooms = [zoom for zoom in ZOOMS if zoom == 1 or places > PLACES_A_ZOOM * zoom / 4]
    return Drawing(
        plot.y.scale,
        [_panel(panel, across, most, at) for panel in panels],
        {
            zoom: [
                (across.place(x), tick_text(x, plot.x.unit))
                for x in across.ticks_from_start(TICKS * zoom)
            ]
            for zoom in zooms
        },
        _fields(series, across, plot.x),
        None if at is None else 100 * across.place(at),
        f"{plot.x.label}{', logarithmic' if is_log else ''}",
    )


def _panel(panel: Panel, across: Scale, most: int, at: float | None) -> DrawnPanel:
    axis, up, _ = panel
    stars = [(x, y) for each in panel.series for x, y in each.points if x == at]
    dotted = [(x, y) for each in panel.series if each.style == "both" for x, y in each.points]
    stars = [point for point in dotted if point[0] == at] or stars
    star = (100 * across.place(stars[0][0]), _down(up, stars[0][1])) if stars else None
    return DrawnPanel(
        f"{axis.label}{', logarithmic' if up.is_log else ''}",
        [_series(each, across, up, most) for each in panel.series],
        [(_down(up, value), tick_text(value, axis.unit)) for value in up.ticks()],
        star,
    )


def _series(series: Series, across: Scale, up: Scale, most: int) -> DrawnSeries:
    points: Points = thinned(series.points, most)
    if series.style == "steps":  # each value from its x to the next
        ends = zip(points, [x for x, _ in points[1:]] + [across.high], strict=True)
        points = [(x, y) for (start, y), end in ends for x in (start, end)]
    spots = [(100 * across.place(x), _down(up, y)) for x, y in points]
    # More dots would merge into a thick line.
    is_dotted = series.style in ("dots", "both") and len(series.points) <= min(FIELDS, most // 2)
    band = [
        (100 * across.place(x), _down(up, high), _down(up, low)) for x, low, high in series.band
    ]
    has_line = series.style != "dots"
    if series.style == "steps":
        band = [(x, y, _down(up, max(0.0, up.low))) for x, y in spots]
    edge = [*((x, top) for x, top, _ in band), *((x, bottom) for x, _, bottom in reversed(band))]
    return DrawnSeries(
        series,
        _path(spots) if has_line else "",
        "".join(f"M{x:.2f},{y:.2f}h0" for x, y in spots if is_dotted or len(spots) == 1),
        _path(edge) if has_line else "",
        [] if has_line else band,
    )


def _path(points: Points) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _down(scale: Scale, value: float) -> float:
    """The distance of a value from the top in percent, with some space at both ends."""
    return 4 + 92 * (1 - scale.place(value))


def thinned(values: Points, most: int) -> Points:
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


def _fields(
    series: Sequence[tuple[Series, Axis]], across: Scale, axis: Axis
) -> list[tuple[float, float, str]]:
    """Adjacent fields, each with the newest values up to its last x. Those of steps end at an x."""
    are_steps = all(each.style == "steps" for each, _ in series)
    places = sorted({x for each, _ in series for x, _ in each.points})
    every = -(-len(places) // min(FIELDS, max(1, LINES // (1 + len(series)))))
    ends = [*places[every - 1 :: every], *([places[-1]] if len(places) % every else [])]
    newest = [_newest(each.points, ends) for each, _ in series]
    intervals = [{x: (low, high) for x, low, high in each.band} for each, _ in series]
    fields, left = [], 0.0
    for index, (end, after) in enumerate(zip(ends, ends[1:] + ends[-1:], strict=True)):
        right = 100 * across.place(after if are_steps else (end + after) / 2)
        lines = [f"{axis.label} {tick_text(end, axis.unit)}".strip()]
        for number, (each, up) in enumerate(series):
            if (value := newest[number][index]) is not None:
                ends_of = intervals[number].get(end)
                between = " – ".join(tick_text(v, up.unit) for v in ends_of or ())
                label = each.label
                value_text = tick_text(float(f"{value:.4g}"), up.unit)
                lines.append(f"{label}: {value_text}{f' ({between})' if between else ''}")
        fields.append((left, right - left, "\n".join(lines)))
        left = right
    return fields


def _newest(values: Points, ends: Sequence[float]) -> list[float | None]:
    """The last value at or before each of some ascending places; None if there is none."""
    newest: list[float | None] = [None] * len(ends)
    index = 0
    for x, value in values:
        while index < len(ends) and x > ends[index]:
            index += 1
        if index < len(ends):
            newest[index] = value
    return newest
