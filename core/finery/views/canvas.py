"""Plots as text: lines of braille dots."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finery.rows.report import Axis, Plot, Series
from finery.util.text import shortened, visible
from finery.views.scales import Panel, Scale, horizontal_scale, panels_of, tick_text

if TYPE_CHECKING:
    from rich.text import Text

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a braille character, by row and column."""
STYLES = ("cyan", "yellow", "magenta", "green", "blue", "white")
"""Colours of series."""
MARKS = ("●○◆◇", "▲△▼▽")
"""What the dots of series look like at the left axis and at the right one."""
LINES = ("⠒", "⠂")
"""What a line without dots looks like at each axis: at the right one, it is broken."""
LONGEST = 40
"""Characters of a label in the legend."""


class Canvas:
    """Dots and marks in a grid of characters. The last one drawn sets a character's color."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._bits: dict[tuple[int, int], int] = {}
        self._marks: dict[tuple[int, int], str] = {}
        self._styles: dict[tuple[int, int], str] = {}

    def dot(self, x: int, y: int, style: str) -> None:
        """Set the dot `x` from the left and `y` from the bottom."""
        cell = (x // 2, self.height - 1 - y // 4)
        bit = DOTS[3 - y % 4][x % 2]
        self._bits[cell] = self._bits.get(cell, 0) | bit
        self._styles[cell] = style

    def line(
        self, start: tuple[int, int], end: tuple[int, int], style: str, *, is_broken: bool = False
    ) -> None:
        """Connect two dots. is_broken: leave every other dot out."""
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for i in range(steps + 1):
            x = start[0] + round(i * (end[0] - start[0]) / steps)
            y = start[1] + round(i * (end[1] - start[1]) / steps)
            if not (is_broken and (x + y) % 4 > 1):
                self.dot(x, y, style)

    def mark(self, x: int, y: int, text: str, style: str) -> None:
        """Put a character in place of the dots."""
        cell = (x // 2, self.height - 1 - y // 4)
        self._marks[cell], self._styles[cell] = text, style

    def upright(self, x: int, style: str) -> None:
        """Draw a vertical line in cells that are empty."""
        for row in range(self.height):
            cell = (x // 2, row)
            if cell not in self._bits and cell not in self._marks:
                self._marks[cell], self._styles[cell] = "┊", style

    def row(self, row: int) -> "Text":
        """A row of characters as `rich` text."""
        from rich.text import Text

        text = Text()
        for column in range(self.width):
            cell = (column, row)
            drawn = chr(0x2800 + self._bits[cell]) if cell in self._bits else " "
            text.append(self._marks.get(cell, drawn), self._styles.get(cell, ""))
        return text


def plot_as_text(plot: Plot, width: int, height: int) -> "list[Text]":
    """Lines of `rich` text with axes and a legend; [] if there is nothing to draw.

    Of the panels, the first has the left axis and the second the right one.
    width, height: of the whole plot, in characters.
    """
    panels = panels_of(plot)[:2]
    if not panels:
        return []
    across = horizontal_scale(panels, plot.x)
    legend = _legend(plot, panels, width)
    rows = range(max(4, height - 2 - len(legend)))
    left, right = (_labels(panels[side : side + 1], len(rows)) for side in (0, 1))
    gutters = [max(map(len, labels.values()), default=0) for labels in (left, right)]
    canvas = Canvas(max(10, width - sum(gutters) - (4 if gutters[1] else 3)), len(rows))
    for side, panel in enumerate(panels):
        for series in panel.series:
            mark = _mark(panel, side, series) or MARKS[side][0]
            _draw(canvas, series, mark, _style(series), across, panel.scale, is_broken=bool(side))
    if plot.at is not None:
        _star(canvas, plot.at[0], panels, across)
    field = [_framed(canvas.row(r), left.get(r), right.get(r), gutters) for r in rows]
    return [*field, *_foot(canvas.width, across, plot.x, gutters[0]), *legend]


def _style(series: Series) -> str:
    return STYLES[(series.colour or 0) % len(STYLES)]


def _mark(panel: Panel, side: int, series: Series) -> str:
    """What its dots look like, if it has any: other than those of others at its axis."""
    dotted = [each for each in panel.series if each.style in ("dots", "both")]
    marks = MARKS[side]
    return marks[dotted.index(series) % len(marks)] if series in dotted else ""


def _labels(panel: Sequence[Panel], height: int) -> dict[int, str]:
    """Row → the label of an axis there: both ends and some rows in between."""
    if not panel:
        return {}
    (axis, scale, _), number = panel[0], max(2, min(5, (height + 2) // 3))
    rows = [round(i * (height - 1) / (number - 1)) for i in range(number)]
    values = {row: scale.at(1 - row / (height - 1)) for row in rows}
    return {row: tick_text(float(f"{value:.3g}"), axis.unit) for row, value in values.items()}


def _spot(canvas: Canvas, across: Scale, up: Scale, x: float, y: float) -> tuple[int, int]:
    """The position of a value's dot."""
    places = (min(1.0, max(0.0, place)) for place in (across.place(x), up.place(y)))
    right, high = places
    return round(right * (canvas.width * 2 - 1)), round(high * (canvas.height * 4 - 1))


def _draw(
    canvas: Canvas, series: Series, mark: str, style: str, across: Scale, up: Scale, *,
    is_broken: bool,
) -> None:  # fmt: skip
    """Draw a line through the mean of the values in each column of dots, its band and its dots."""
    has_line = series.style in ("line", "both", "faint", "steps")
    for side in (1, 2):
        ends = [(each[0], each[side]) for each in series.band]
        if has_line and ends:
            _connect(canvas, _spots(canvas, ends, across, up), f"dim {style}")
    if not has_line:
        for x, low, high in series.band:
            bottom, top = (_spot(canvas, across, up, x, end) for end in (low, high))
            canvas.line(bottom, top, f"dim {style}")
    spots = _spots(canvas, series.points, across, up)
    if has_line:
        is_faint = series.style == "faint"
        _connect(canvas, spots, f"dim {style}" if is_faint else style, is_broken=is_broken)
    if series.style in ("dots", "both") or len(spots) == 1:
        for x, y in spots:
            canvas.mark(x, y, mark, style)


def _spots(
    canvas: Canvas, points: Sequence[tuple[float, float]], across: Scale, up: Scale
) -> list[tuple[int, int]]:
    columns: dict[int, list[int]] = {}
    for point in points:
        x, y = _spot(canvas, across, up, *point)
        columns.setdefault(x, []).append(y)
    return [(x, round(sum(heights) / len(heights))) for x, heights in sorted(columns.items())]


def _connect(
    canvas: Canvas, spots: Sequence[tuple[int, int]], style: str, *, is_broken: bool = False
) -> None:
    for start, end in zip(spots, spots[1:] or spots, strict=False):
        canvas.line(start, end, style, is_broken=is_broken)


def _star(canvas: Canvas, marked: float, panels: Sequence[Panel], across: Scale) -> None:
    """Mark an x by a vertical line below a star, which is on a series with a value there."""
    ordered = [(series, panel) for panel in panels for series in panel.series]
    for series, panel in sorted(ordered, key=lambda pair: pair[0].style not in ("dots", "both")):
        if (value := dict(series.points).get(marked)) is not None:
            x, y = _spot(canvas, across, panel.scale, marked, value)
            canvas.mark(x, y, "★", "bold green")
            canvas.upright(x, "dim green")
            return


def _framed(row: "Text", left: str | None, right: str | None, gutters: Sequence[int]) -> "Text":
    from rich.text import Text

    text = Text("  ")
    text.append(f"{left or '':>{gutters[0]}}", "dim")
    text.append("┤" if left else "│", "dim")
    text.append_text(row)
    if gutters[1]:
        text.append(f"├{right}" if right else "│", "dim")
    text.rstrip()
    return text


def _foot(width: int, across: Scale, axis: Axis, gutter: int) -> "list[Text]":
    """The horizontal axis with its ticks."""
    from rich.text import Text

    line, labels, last = ["─"] * width, [" "] * width, -2
    for tick in across.ticks_from_start(width // 10):
        x = round(across.place(tick) * (width - 1))
        text = tick_text(tick, axis.unit)
        start = max(0, min(x - len(text) // 2, width - len(text)))
        if start < last + 2:
            continue
        line[x], last = "┬", start + len(text)
        labels[start:last] = text
    indent = " " * (gutter + 2)
    return [
        Text(f"{indent}└{''.join(line)}", style="dim"),
        Text(f"{indent} {''.join(labels)}".rstrip(), style="dim"),
    ]


def _legend(plot: Plot, panels: Sequence[Panel], width: int) -> "list[Text]":
    """The legend of the series, in as many rows as necessary."""
    from rich.text import Text

    entries = []
    for side, panel in enumerate(panels):
        for series in panel.series:
            notes = (["right axis"] if side else []) + (["log"] if panel.scale.is_log else [])
            mark = _mark(panel, side, series) or LINES[side]
            label = shortened(visible(series.label), LONGEST)
            entry = Text.assemble((f"{mark} ", _style(series)), label)
            entries.append(entry.append(f" ({', '.join(notes)})" if notes else "", "dim"))
    if plot.at is not None:
        entries.append(Text.assemble(("★ ", "bold green"), visible(plot.at[1])))
    if plot.x.label:
        note = " (log)" if horizontal_scale(panels, plot.x).is_log else ""
        entries.append(Text(f"x: {visible(plot.x.label)}{note}", style="dim"))
    rows = [Text(" ")]
    for entry in entries:
        if len(rows[-1]) > 1 and len(rows[-1]) + len(entry) + 3 > width:
            rows.append(Text(" "))
        rows[-1].append("   " if len(rows[-1]) > 1 else " ").append_text(entry)
    return rows
