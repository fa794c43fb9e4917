"""Tables of counts with bars, and histograms of lengths."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from finery.util.text import counted, some_of
from finery.views import Axis, Cell, Column, Plot, Quantity, Series, Table, Text
from finery_data.report.rowfacts import Lengths

SHOWN = 24
"""Values that are shown at once; the others are folded away."""
LONGEST_NAME = 80
"""Maximum characters of a value that are shown."""


def counts_table(
    title: str, names: Sequence[str], counts: Sequence[Counter[str]], *, has_shares: bool = True
) -> Table:
    """The counts of some data sets with bars, the most frequent value first.

    title: what is counted. names: of the data sets. has_shares: whether each count is followed by
    its share of the data set's rows.
    """
    every = sum(counts, Counter[str]())
    columns = []
    for name in names:
        columns.append(Column(name, has_bars=True))
        columns += [Column("share", priority=2)] if has_shares else []
    rows: list[list[Cell]] = []
    for value, _ in sorted(every.items(), key=lambda item: (-item[1], item[0])):
        row: list[Cell] = [cut_to(value, LONGEST_NAME) if value else Text("empty", "soft")]
        for count in counts:
            # A data set without any has none to count, which 0 would hide.
            total = count.total()
            row.append(count[value] if total else None)
            share = Quantity(count[value] / total, "share") if total else None
            row += [share] if has_shares else []
        rows.append(row)
    return Table([title, *columns], rows, shown=SHOWN)


def cut_to(text: str, most: int) -> str:
    """The text with at most so many characters, and how many are left out."""
    if len(text) <= most:
        return text
    return f"{text[: most - 1]}… ({len(text) - most + 1:,} more characters)"


BINS = 28
"""Bins of a histogram, about."""
WIDE = 6
"""Times the median, from which on the longest makes the scale logarithmic."""


class Bins(NamedTuple):
    """Bins [edge, next edge) that all data sets share; the last one holds its end, too."""

    edges: list[int]
    log: bool


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
    edges = [0, 1] if least == 0 else [start]  # those of 0 have no place on the axis
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


def histogram_of(named: Sequence[tuple[str, Lengths] | None], unit: str) -> Plot:
    """For each data set, the share of its rows in each bin.

    named: the data sets in the order of their colours; None for one without such lengths.
    """
    several = [(i, *one) for i, one in enumerate(named) if one is not None and len(one[1])]
    bins = bins_of([lengths for _, _, lengths in several])
    lines, empty = [], []
    for colour, name, lengths in several:
        counts = lengths.counts(bins.edges)
        shares = [count / sum(counts) for count in counts]
        points = [*zip(bins.edges, [*shares, shares[-1]], strict=True)]
        if bins.log and bins.edges[0] == 0:
            del points[0]
            empty += [f"{counted(counts[0], 'row')} of {name}"] if counts[0] else []
        lines.append(Series(name, points, "steps", colour=colour))
    across = Axis(unit, scale="log" if bins.log else "linear")
    note = f"Without {some_of(empty, len(empty))} of length 0." if empty else ""
    return Plot(lines, across, Axis("share of rows", "share", has_zero=True), note=note)
