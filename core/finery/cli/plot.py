"""Curves as text: lines of braille dots (2 × 4 in a character) between axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finery_trl.view.curves import Series

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bit of each dot of a braille character, by row and column."""
LOG_RATIO = 8.0
"""From such a ratio of highest to lowest on, an axis is logarithmic."""
GOLDEN = (1.0, 2.0, 5.0, 10.0)
"""What round numbers begin with."""


class Line(NamedTuple):
    """A series to draw: its label, its colour, a mark on each value (""), and the axis it uses."""

    label: str
    values: Series
    style: str
    mark: str = ""
    right: bool = False


class Axis(NamedTuple):
    """A vertical axis from `low` to `high`, evenly or by powers."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, lines: Sequence[Line]) -> "Axis":
        """One that all these lines fit on."""
        values = [v for line in lines for _, v in line.values]
        low, high = min(values), max(values)
        if low == high:
            room = abs(low) * 0.1 or 1.0
            return cls(low - room, high + room, False)
        return cls(low, high, spreads(values))

    def place(self, value: float) -> float:
        """Where a value lies: 0 at the lower end, 1 at the upper."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, place: float) -> float:
        """The value at a place."""
        if self.log:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)

    def label(self, place: float) -> str:
        """What the axis says at a place."""
        return f"{self.at(place):.3g}"


def spreads(values: Sequence[float]) -> bool:
    """Whether values are so far apart that only a logarithmic axis shows them all."""
    low = min(values, default=0.0)
    return low > 0 and max(values) / low >= LOG_RATIO


class Canvas:
    """Dots and marks in a field of characters; the last one drawn gives a character its colour."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._bits: dict[tuple[int, int], int] = {}
        self._marks: dict[tuple[int, int], str] = {}
        self._styles: dict[tuple[int, int], str] = {}

    def dot(self, x: int, y: int, style: str) -> None:
        """Set the dot `x` from the left and `y` from below."""
        cell = (x // 2, self.height - 1 - y // 4)
        bit = DOTS[3 - y % 4][x % 2]
        self._bits[cell] = self._bits.get(cell, 0) | bit
        self._styles[cell] = style

    def line(self, start: tuple[int, int], end: tuple[int, int], style: str) -> None:
        """Join two dots."""
        steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
        for i in range(steps + 1):
            x = start[0] + round(i * (end[0] - start[0]) / steps)
            self.dot(x, start[1] + round(i * (end[1] - start[1]) / steps), style)

    def mark(self, x: int, y: int, text: str, style: str) -> None:
        """Put a character over the dots at a dot."""
        cell = (x // 2, self.height - 1 - y // 4)
        self._marks[cell], self._styles[cell] = text, style

    def upright(self, x: int, style: str) -> None:
        """A faint line from top to bottom where nothing else is."""
        for row in range(self.height):
            cell = (x // 2, row)
            if cell not in self._bits and cell not in self._marks:
                self._marks[cell], self._styles[cell] = "┊", style

    def row(self, row: int) -> Any:
        """A row of characters as rich text."""
        from rich.text import Text

        text = Text()
        for column in range(self.width):
            cell = (column, row)
            drawn = chr(0x2800 + self._bits[cell]) if cell in self._bits else " "
            text.append(self._marks.get(cell, drawn), self._styles.get(cell, ""))
        return text


def plot(lines: Sequence[Line], width: int, height: int, best: int | None = None) -> list[Any]:
    """Lines of rich text with axes and a legend; [] where there is nothing to draw.

    width, height: in characters, everything included. best: the step to mark.
    """
    lines = [line for line in lines if line.values]
    if not lines:
        return []
    sides = {right: [n for n in lines if n.right == right] for right in (False, True)}
    axes = {right: Axis.of(side) for right, side in sides.items() if side}
    left, right = (_labels(axes.get(side), height - 3) for side in (False, True))
    gutters = [max(map(len, labels.values()), default=0) for labels in (left, right)]
    frame = 4 if gutters[1] else 3
    canvas = Canvas(max(10, width - sum(gutters) - frame), height - 3)
    span = min(n.values[0][0] for n in lines), max(n.values[-1][0] for n in lines)
    for line in lines:
        _draw(canvas, line, axes[line.right], span)
    if best is not None:
        _mark_best(canvas, lines, axes, span, best)
    rows = [_framed(canvas.row(r), left.get(r), right.get(r), gutters) for r in range(height - 3)]
    return [*rows, *_foot(canvas.width, span, gutters[0]), _legend(lines, axes, best, width)]


def _labels(axis: Axis | None, height: int) -> dict[int, str]:
    """Row → what an axis says there: both ends and some rows between."""
    if axis is None:
        return {}
    number = max(2, min(5, (height + 2) // 3))
    rows = [round(i * (height - 1) / (number - 1)) for i in range(number)]
    return {row: axis.label(1 - row / (height - 1)) for row in rows}


def _spot(canvas: Canvas, axis: Axis, span: tuple[int, int], step: int, value: float) -> Any:
    """The dot of a value."""
    across = (step - span[0]) / (span[1] - span[0] or 1)
    place = min(1.0, max(0.0, axis.place(value)))
    return round(across * (canvas.width * 2 - 1)), round(place * (canvas.height * 4 - 1))


def _draw(canvas: Canvas, line: Line, axis: Axis, span: tuple[int, int]) -> None:
    """A line through the mean of what falls into each column of dots, and its marks."""
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


def _mark_best(
    canvas: Canvas,
    lines: Sequence[Line],
    axes: Mapping[bool, Axis],
    span: tuple[int, int],
    best: int,
) -> None:
    """A star on the marked line that has a value at the best step, else an upright alone."""
    for line in sorted(lines, key=lambda n: (not n.mark, n.right)):
        value = dict(line.values).get(best)
        if value is not None:
            x, y = _spot(canvas, axes[line.right], span, best, value)
            canvas.mark(x, y, "★", "bold green")
            canvas.upright(x, "dim green")
            return


def _framed(row: Any, left: str | None, right: str | None, gutters: Sequence[int]) -> Any:
    from rich.text import Text

    text = Text("  ")
    text.append(f"{left or '':>{gutters[0]}}", "dim")
    text.append("┤" if left else "│", "dim")
    text.append_text(row)
    if gutters[1]:
        text.append(f"├{right}" if right else "│", "dim")
    text.rstrip()
    return text


def _foot(width: int, span: tuple[int, int], gutter: int) -> list[Any]:
    """The horizontal axis and its steps."""
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


def round_steps(span: tuple[int, int], most: int) -> list[int]:
    """Some round steps within a span, and its first one."""
    first, last = span
    rough = max(1.0, (last - first) / max(1, most))
    power = 10.0 ** math.floor(math.log10(rough))
    size = int(next(g * power for g in GOLDEN if g * power >= rough * 0.999))
    found = range(size * math.ceil(first / size), last + 1, size)
    return [first, *(n for n in found if n - first >= size * 0.6)]


def _legend(lines: Sequence[Line], axes: Mapping[bool, Axis], best: int | None, width: int) -> Any:
    from rich.text import Text

    text = Text("  ")
    for line in lines:
        notes = ["right axis"] if line.right else []
        notes += ["log"] if axes[line.right].log else []
        text.append(f"{line.mark or '⠒'} ", line.style).append(line.label)
        text.append(f" ({', '.join(notes)})" if notes else "", "dim").append("   ")
    if best is not None:
        text.append("★ ", "bold green").append(f"kept, step {best}   ")
    across = "x: optimizer steps"
    if len(text) + len(across) <= width:
        text.append(across, "dim")
    text.rstrip()
    return text
