"""Bars for counts, and histograms of lengths: bins, and the geometry of a small SVG."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from finery.util.text import percent
from finery_data.report.rowfacts import Lengths

SHOWN = 24
"""Bars of a list that are shown at once; the others are folded away."""
MOST = 300
"""Bars of a list that are on the page at all."""
LONGEST_NAME = 80
"""Maximum characters of a value that are shown."""


class Bar(NamedTuple):
    """A value. tracks: (length in percent, what it says) for each data set. number: its counts."""

    name: str
    tracks: list[tuple[float, str]]
    number: str


class Bars(NamedTuple):
    """The most frequent values, those that are folded away, and how many are left out."""

    shown: list[Bar]
    folded: list[Bar]
    left: int

    @property
    def total(self) -> int:
        """The number of values."""
        return len(self.shown) + len(self.folded) + self.left


def bars_of(counts: Sequence[Counter[str]], *, of_all: bool = True) -> Bars:
    """Bars for the counts of some data sets, the most frequent value first.

    of_all: as long as its share of the data set's rows, so that data sets can be compared; else as
    its number.
    """
    totals = [c.total() if of_all else 1 for c in counts]
    every = sum(counts, Counter[str]())
    values = [v for v, _ in sorted(every.items(), key=lambda item: (-item[1], item[0]))]
    every_share = (c[v] / t for v in values for c, t in zip(counts, totals, strict=True) if t)
    top = max(every_share, default=1)
    bars = [_bar(v, [c[v] for c in counts], totals, top or 1, of_all) for v in values[:MOST]]
    return Bars(bars[:SHOWN], bars[SHOWN:], len(values) - len(bars))


def _bar(value: str, counts: Sequence[int], totals: Sequence[int], top: float, of_all: bool) -> Bar:
    shares = [n / (t or 1) for n, t in zip(counts, totals, strict=True)]
    # A data set without any has none to count, which 0 would hide.
    numbers = [f"{n:,}" if t else "–" for n, t in zip(counts, totals, strict=True)]
    words = [f"{n}, {percent(s)}" if of_all else n for n, s in zip(numbers, shares, strict=True)]
    number = " · ".join(numbers) if len(counts) > 1 else words[0]
    tracks = [(100 * s / top, text) for s, text in zip(shares, words, strict=True)]
    return Bar(cut_to(value, LONGEST_NAME), tracks, number)


def cut_to(text: str, most: int) -> str:
    """The text with at most so many characters, and how many are left out."""
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}… ({len(text) - most + 1:,} more characters)"


BINS = 28
"""Bins of a histogram, about."""
WIDE = 6
"""Times the median, from which on the longest makes the scale logarithmic."""
_HEIGHT = 100


class Bins(NamedTuple):
    """Bins [edge, next edge) that all data sets share; the last one holds its end, too."""

    edges: list[int]
    log: bool

    def labels(self) -> list[tuple[float, str]]:
        """(place from 0 to 1, label) of some edges."""
        last = len(self.edges) - 1
        every = max(1, math.ceil(last / 6))
        places = range(0, last + 1, every)
        return [(i / last, f"{self.edges[i]:,}") for i in places]

    def named(self, index: int) -> str:
        """A bin in words."""
        low, high = self.edges[index], self.edges[index + 1] - 1
        return f"{low:,}" if low >= high else f"{low:,} to {high:,}"


class Histogram(NamedTuple):
    """A histogram to draw in a field of `width` × `height`, a unit of width for each bin.

    top: label of the upper end. areas: (colour, points of a polygon) of each data set. hints: the
    tooltip of each bin. ticks: (position from 0 to 1, label).
    """

    what: str
    caption: str
    top: str
    width: int
    height: int
    areas: list[tuple[int, str]]
    hints: list[str]
    ticks: list[tuple[float, str]]


def bins_of(several: Sequence[Lengths]) -> Bins:
    """Bins for some lengths, all of which are looked at together."""
    found = [lengths for lengths in several if len(lengths)]
    least, most = min(v.at(0) for v in found), max(v.at(1) for v in found)
    middle = max(1, min(v.at(0.5) for v in found))
    if most > WIDE * middle:
        return Bins(_logarithmic(least, most), True)
    step = _round_step((most + 1 - least) / BINS)
    start = least // step * step
    count = max(1, math.ceil((most + 1 - start) / step))
    return Bins([start + i * step for i in range(count + 1)], False)


def _logarithmic(least: int, most: int) -> list[int]:
    """Logarithmically spaced edges, as distinct integers."""
    start = max(1, least)
    factor = max(1.15, (most + 1) / start) ** (1 / BINS) if most > start else 2.0
    edges = [0] if least == 0 else [start]
    value = float(start)
    while edges[-1] <= most:
        value *= factor
        edges.append(max(edges[-1] + 1, _rounded(value)))
    return edges


def _rounded(value: float) -> int:
    """Two digits that count, so that labels are short."""
    unit = 10 ** max(0, int(math.log10(value)) - 1)
    return int(math.ceil(value / unit) * unit)


def _round_step(step: float) -> int:
    """The next of 1, 2, 5, 10, 20, …"""
    if step <= 1:
        return 1
    power = 10 ** int(math.log10(step))
    return next(int(n * power) for n in (1, 2, 5, 10) if n * power >= step)


def histogram_of(named: Sequence[tuple[str, Lengths] | None], unit: str, what: str) -> Histogram:
    """The plot: for each data set, the share of its rows in each bin.

    named: the data sets in the order of their colours; None for one without such lengths. what: the
    measured part, e.g. `prompt`.
    """
    several = [(i, *one) for i, one in enumerate(named) if one is not None and len(one[1])]
    bins = bins_of([lengths for _, _, lengths in several])
    counts = [lengths.counts(bins.edges) for _, _, lengths in several]
    shares = [[n / sum(of) for n in of] for of in counts]
    top = max(map(max, shares))
    hints = []
    for place in range(len(bins.edges) - 1):
        lines = [f"{bins.named(place)} {unit}"]
        for (_, name, _), rows, of in zip(several, counts, shares, strict=True):
            lines.append(f"{name}: {rows[place]:,} rows, {percent(of[place])}")
        hints.append("\n".join(lines))
    return Histogram(
        what=what,
        caption=f"{unit}{', logarithmic' if bins.log else ''}",
        top=f"{percent(top)} of rows",
        width=len(bins.edges) - 1,
        height=_HEIGHT,
        areas=[
            (index, _area([share / top for share in of]))
            for (index, _, _), of in zip(several, shares, strict=True)
        ],
        hints=hints,
        ticks=bins.labels(),
    )


def _area(heights: Sequence[float]) -> str:
    """The points of a polygon: steps from bin to bin, with a line on top."""
    points = [f"0,{_HEIGHT}"]
    for i, height in enumerate(heights):
        y = f"{_HEIGHT - height * (_HEIGHT - 4):.2f}"
        points += [f"{i},{y}", f"{i + 1},{y}"]
    points.append(f"{len(heights)},{_HEIGHT}")
    return " ".join(points)
