"""Where the values of a plot are, on its axes: in a terminal and on a page alike."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from finery.rows.report import Axis, Plot, Series, Unit

ANY = Axis()
LOG_RATIO = 8.0
"""The ratio of highest to lowest value from which an axis is logarithmic by itself."""
ROUND = (1.0, 2.0, 5.0, 10.0)
"""Leading digits of round numbers."""


class Scale(NamedTuple):
    """The values from `low` to `high`, evenly or by powers."""

    low: float
    high: float
    is_log: bool = False

    @classmethod
    def of(cls, values: Iterable[float], axis: Axis = ANY) -> "Scale":
        """A scale that fits all these values. Where one isn't positive, it isn't logarithmic."""
        known = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(known), max(known)
        if axis.has_zero:
            low, high = min(0.0, low), max(0.0, high)
        if low == high:
            room = abs(low) * 0.1 or 1.0
            return cls(low - room, high + room)
        is_far = low > 0 and high / low >= LOG_RATIO and axis.unit not in ("share", "likely")
        is_log = axis.scale == "log" or (axis.scale in ("auto", "choice") and is_far)
        return cls(low, high, is_log and low > 0)

    def place(self, value: float) -> float:
        """The place of a value: 0 at the lower end, 1 at the upper end."""
        if self.is_log:
            return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, place: float) -> float:
        """The value at a place."""
        if self.is_log:
            return float(self.low * (self.high / self.low) ** place)
        return self.low + place * (self.high - self.low)

    def ticks(self, most: int = 5) -> list[float]:
        """Some round values on the axis."""
        if not self.is_log:
            step = _round_above((self.high - self.low) / max(1, most))
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            return [round(i * step, 12) for i in range(first, last + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        firsts = (1,) if len(powers) > 5 else (1, 3) if len(powers) > 3 else (1, 2, 5)
        values = [first * 10.0**power for power in powers for first in firsts]
        return [value for value in values if self.low <= value <= self.high]

    def ticks_from_start(self, most: int) -> list[float]:
        """The lower end, and round values with some room after it."""
        ticks = self.ticks(most)
        room = 0.6 / max(1, most)
        return [self.low, *(tick for tick in ticks if self.place(tick) >= room)]


class Panel(NamedTuple):
    """The series of a plot that share a vertical axis."""

    axis: Axis
    scale: Scale
    series: list[Series]


def panels_of(plot: Plot) -> list[Panel]:
    """The panels of a plot, in the order of their first series; none of them is empty.

    Every series has its colour.
    """
    by_axis: dict[Axis, list[Series]] = {}
    for number, each in enumerate(plot.series):
        axis = each.y or plot.y
        points = [
            (x, y) for x, y in each.points if math.isfinite(y) and (axis.scale != "log" or y > 0)
        ]
        if points:
            colour = number if each.colour is None else each.colour
            by_axis.setdefault(axis, []).append(replace(each, points=points, colour=colour))
    heights = {
        axis: [y for each in series for _, *ys in (*each.points, *each.band) for y in ys]
        for axis, series in by_axis.items()
    }
    return [Panel(axis, Scale.of(heights[axis], axis), series) for axis, series in by_axis.items()]


def horizontal_scale(panels: Sequence[Panel], axis: Axis) -> Scale:
    """The scale of all panels. It begins at 0 if the first value is near."""
    values = [
        x for panel in panels for each in panel.series for x, *_ in (*each.points, *each.band)
    ]
    scale = Scale.of(values, axis if axis.scale == "log" else replace(axis, scale="linear"))
    starts_near = not scale.is_log and 0 <= scale.low <= scale.high / 10
    return scale._replace(low=0) if starts_near else scale


def _round_above(value: float) -> float:
    """The next round number, e.g. 0.02, 5, 200."""
    power = 10.0 ** math.floor(math.log10(value)) if value > 0 else 1.0
    return next(first * power for first in ROUND if first * power >= value * 0.999)


def tick_text(value: float, unit: Unit = "") -> str:
    """A round value at an axis: `12,000`, `0.05`, `40 %`."""
    if unit in ("share", "likely"):
        return f"{100 * value:.3g} %"
    text = f"{value:,.6g}" if 1e-4 <= abs(value) < 1e6 or not value else f"{value:.3g}"
    return f"{text} s" if unit == "seconds" else f"${text}" if unit == "dollars" else text
