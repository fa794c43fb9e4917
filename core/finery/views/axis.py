"""Axes of plots, in the terminal and on pages: ranges, scales, round numbers."""

import math
from collections.abc import Sequence
from typing import NamedTuple

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
