"""Axes of plots in the terminal and on pages, and curves as text: lines of braille dots."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.text import Text


LOG_RATIO = 8.0
"""The ratio of highest to lowest value from which an axis is logarithmic."""
ROUND = (1.0, 2.0, 5.0, 10.0)
"""Leading digits of round numbers."""


class Axis(NamedTuple):
    """A vertical axis from `low` to `high`, evenly or by powers."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], *, log: bool | None = None) -> "Axis":
        """An axis that fits all these values. log: None decides by their spread."""
        low, high = min(values), max(values)
        if low == high:
            room = abs(low) * 0.1 or 1.0
            return cls(low - room, high + room, False)
        return cls(low, high, spreads(values) if log is None else log)

    def place(self, value: float) -> float:
        """The place of a value: 0 at the lower end, 1 at the upper end."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, place: float) -> float:
        """The value at a place."""
        if self.log:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)

    def ticks(self, most: int = 5) -> list[float]:
        """Some round values on the axis."""
        if not self.log:
            step = _round_above((self.high - self.low) / most)
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            return [round(i * step, 12) for i in range(first, last + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        firsts = (1,) if len(powers) > 5 else (1, 3) if len(powers) > 3 else (1, 2, 5)
        values = [first * 10.0**power for power in powers for first in firsts]
        return [value for value in values if self.low <= value <= self.high]


class Span(NamedTuple):
    """The steps that a chart shows."""

    first: int
    last: int

    def across(self, step: float) -> float:
        """The place of a step, in percent."""
        return 100 * (step - self.first) / ((self.last - self.first) or 1)


def spreads(values: Sequence[float]) -> bool:
    """Whether values are so far apart that they need a logarithmic axis."""
    low = min(values, default=0.0)
    return low > 0 and max(values) / low >= LOG_RATIO


def round_steps(span: tuple[int, int], most: int) -> list[int]:
    """The first step of a span and some round steps in it."""
    first, last = span
    size = max(1, int(_round_above((last - first) / max(1, most))))
    steps = range(size * math.ceil(first / size), last + 1, size)
    return [first, *(n for n in steps if n - first >= size * 0.6)]


def _round_above(value: float) -> float:
    """The next round number, e.g. 0.02, 5, 200."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(first * power for first in ROUND if first * power >= value * 0.999)


DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a braille character, by row and column."""
ACROSS = "optimizer steps"


class Line(NamedTuple):
    """A series to draw: its label, color, a mark at each value (or ""), and its axis.

    A line without a label isn't in the legend.
    """

    label: str
    values: Sequence[tuple[int, float]]
    style: str
    mark: str = ""
    right: bool = False


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

    def line(self, start: tuple[int, int], end: tuple[int, int], style: str) -> None:
        """Connect two dots."""
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for i in range(steps + 1):
            x = start[0] + round(i * (end[0] - start[0]) / steps)
            self.dot(x, start[1] + round(i * (end[1] - start[1]) / steps), style)

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


def plot(
    lines: Sequence[Line],
    width: int,
    height: int,
    best: int | None = None,
    *,
    across: str = ACROSS,
    log: bool | None = None,
) -> "list[Text]":
    """Lines of `rich` text with axes and a legend; [] if there is nothing to draw.

    width, height: of the whole plot, in characters. best: the step to mark. across: what the
    horizontal axis shows. log: whether vertical axes are logarithmic; by default, their values
    decide.
    """
    lines = [line for line in lines if line.values]
    if not lines:
        return []
    sides = {right: [n for n in lines if n.right == right] for right in (False, True)}
    axes = {
        right: Axis.of([value for line in side for _, value in line.values], log=log)
        for right, side in sides.items()
        if side
    }
    legend = _legend(lines, axes, best, width, f"x: {across}")
    rows = range(height - 2 - len(legend))
    left, right = (_labels(axes.get(side), len(rows)) for side in (False, True))
    gutters = [max(map(len, labels.values()), default=0) for labels in (left, right)]
    frame = 4 if gutters[1] else 3
    canvas = Canvas(max(10, width - sum(gutters) - frame), len(rows))
    span = min(n.values[0][0] for n in lines), max(n.values[-1][0] for n in lines)
    for line in lines:
        _draw(canvas, line, axes[line.right], span)
    # The star of the best step is on a line with a value there, above a vertical line.
    for line in sorted(lines, key=lambda n: (not n.mark, n.right)):
        if best is not None and (value := dict(line.values).get(best)) is not None:
            x, y = _spot(canvas, axes[line.right], span, best, value)
            canvas.mark(x, y, "★", "bold green")
            canvas.upright(x, "dim green")
            break
    field = [_framed(canvas.row(r), left.get(r), right.get(r), gutters) for r in rows]
    return [*field, *_foot(canvas.width, span, gutters[0]), *legend]


def _labels(axis: Axis | None, height: int) -> dict[int, str]:
    """Row → the label of an axis there: both ends and some rows in between."""
    if axis is None:
        return {}
    number = max(2, min(5, (height + 2) // 3))
    rows = [round(i * (height - 1) / (number - 1)) for i in range(number)]
    return {row: f"{axis.at(1 - row / (height - 1)):.3g}" for row in rows}


def _spot(
    canvas: Canvas, axis: Axis, span: tuple[int, int], step: int, value: float
) -> tuple[int, int]:
    """The position of a value's dot."""
    across = (step - span[0]) / (span[1] - span[0] or 1)
    place = min(1.0, max(0.0, axis.place(value)))
    return round(across * (canvas.width * 2 - 1)), round(place * (canvas.height * 4 - 1))


def _draw(canvas: Canvas, line: Line, axis: Axis, span: tuple[int, int]) -> None:
    """Draw a line through the mean of the values in each column of dots, and the marks."""
    columns: dict[int, list[int]] = {}
    for step, value in line.values:
        x, y = _spot(canvas, axis, span, step, value)
        columns.setdefault(x, []).append(y)
    spots = [(x, round(sum(found) / len(found))) for x, found in sorted(columns.items())]
    for start, end in zip(spots, spots[1:] or spots, strict=False):
        canvas.line(start, end, line.style)
    if line.mark:
        for x, y in spots:
            canvas.mark(x, y, line.mark, line.style)


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


def _foot(width: int, span: tuple[int, int], gutter: int) -> "list[Text]":
    """The horizontal axis with its steps."""
    from rich.text import Text

    ticks = round_steps(span, width // 10)
    axis, labels = ["─"] * width, [" "] * width
    for tick in ticks:
        x = round((tick - span[0]) / (span[1] - span[0] or 1) * (width - 1))
        axis[x] = "┬"
        text = str(tick)
        start = max(0, min(x - len(text) // 2, width - len(text)))
        labels[start : start + len(text)] = text
    indent = " " * (gutter + 2)
    return [
        Text(f"{indent}└{''.join(axis)}", style="dim"),
        Text(f"{indent} {''.join(labels)}", style="dim"),
    ]


def _legend(
    lines: Sequence[Line], axes: Mapping[bool, Axis], best: int | None, width: int, across: str
) -> "list[Text]":
    """The legend of the lines, in as many rows as necessary."""
    from rich.text import Text

    entries = []
    for line in lines:
        if not line.label:
            continue
        notes = ["right axis"] if line.right else []
        notes += ["log"] if axes[line.right].log else []
        entry = Text.assemble((f"{line.mark or '⠒'} ", line.style), line.label)
        entries.append(entry.append(f" ({', '.join(notes)})" if notes else "", "dim"))
    if best is not None:
        entries.append(Text.assemble(("★ ", "bold green"), f"kept, step {best}"))
    rows = [Text(" ")]
    for entry in entries:
        if len(rows[-1]) > 1 and len(rows[-1]) + len(entry) + 3 > width:
            rows.append(Text(" "))
        rows[-1].append("   " if len(rows[-1]) > 1 else " ").append_text(entry)
    if len(rows[-1]) + len(across) + 3 <= width:
        rows[-1].append(f"   {across}", "dim")
    return rows
