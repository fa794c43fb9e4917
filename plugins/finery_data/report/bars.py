"""Bars for counts: a list of values, each with a bar for every data set."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from finery.util.text import percent

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
    totals = [max(1, c.total()) if of_all else 1 for c in counts]
    every = sum(counts, Counter[str]())
    values = [v for v, _ in sorted(every.items(), key=lambda item: (-item[1], item[0]))]
    top = max((c[v] / t for v in values for c, t in zip(counts, totals, strict=True)), default=1)
    bars = [_bar(v, [c[v] for c in counts], totals, top or 1, of_all) for v in values[:MOST]]
    return Bars(bars[:SHOWN], bars[SHOWN:], len(values) - len(bars))


def _bar(value: str, counts: Sequence[int], totals: Sequence[int], top: float, of_all: bool) -> Bar:
    shares = [n / t for n, t in zip(counts, totals, strict=True)]
    words = [
        f"{n:,}, {percent(s)}" if of_all else f"{n:,}" for n, s in zip(counts, shares, strict=True)
    ]
    number = " · ".join(f"{n:,}" for n in counts) if len(counts) > 1 else words[0]
    tracks = [(100 * s / top, text) for s, text in zip(shares, words, strict=True)]
    return Bar(_cut(value), tracks, number)


def _cut(text: str) -> str:
    if len(text) <= LONGEST_NAME:
        return text
    left = len(text) - LONGEST_NAME + 1
    return f"{text[: LONGEST_NAME - 1]}… ({left:,} more characters)"
