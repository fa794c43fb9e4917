"""Assigns rows to splits so that every stratum is divided by the shares.

The units of a stratum (rows that must stay together) are sorted by their draws. Test takes them
from one end, validation from the other. Added rows shift the borders between splits, so only old
rows close to a border move.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Unit(NamedTuple):
    """Rows that stay together. point: its draw. stratum: that of most of its rows."""

    point: int
    rows: int
    stratum: str


def strata_of(units: Sequence[int], strata: Sequence[str]) -> dict[int, str]:
    """Unit → the stratum of most of its rows; of equally many, the first in sorted order."""
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for unit, stratum in zip(units, strata, strict=True):
        counts[unit][stratum] += 1
    return {u: min(found, key=lambda s: (-found[s], s)) for u, found in counts.items()}


def rare_strata(units: Sequence[Unit], splits: int) -> dict[str, int]:
    """Stratum → its units, for strata with too few of them to be in every split."""
    counts = Counter(unit.stratum for unit in units)
    return {stratum: n for stratum, n in sorted(counts.items()) if n < splits}


def divide(units: Sequence[Unit], shares: Sequence[float]) -> dict[int, int]:
    """Point → index of its split, by the shares of (train, validation, test).

    A stratum gets its share rounded up or down, whichever keeps the sum over the strata closest to
    the share of all rows, and at least one unit per split. Rare strata are divided together.
    """
    asked = [split for split in (2, 1) if shares[split] > 0]
    rare = rare_strata(units, len(asked) + 1)
    groups: dict[tuple[bool, str], list[Unit]] = defaultdict(list)
    for unit in units:
        is_rare = unit.stratum in rare
        groups[is_rare, "" if is_rare else unit.stratum].append(unit)
    chosen: dict[int, int] = {}
    owed = dict.fromkeys(asked, 0.0)  # rows that a split should have gained so far
    for _, group in sorted(groups.items()):
        left = sorted(group)
        rows = sum(unit.rows for unit in left)
        needs = len(left) > len(asked)
        for place, split in enumerate(asked):
            owed[split] += rows * shares[split]
            keep = len(asked) - place if needs else 0  # units for the splits to come, and train
            ordered = left if split == 2 else left[::-1]
            took = _take(ordered, _target(rows * shares[split], owed[split]), needs, keep)
            owed[split] -= sum(unit.rows for unit in took)
            chosen |= {unit.point: split for unit in took}
            left = [unit for unit in left if unit.point not in chosen]
        chosen |= {unit.point: 0 for unit in left}
    return chosen


def _target(share: float, owed: float) -> float:
    """The integer next to the share that is closest to what is owed."""
    low = int(share)
    return min(max(round(owed), low), low if share == low else low + 1)


def _take(units: Sequence[Unit], target: float, needs_one: bool, keep: int) -> list[Unit]:
    """Units from the front whose rows come closest to the target."""
    took: list[Unit] = []
    rows = 0
    for unit in units[: len(units) - keep]:
        if rows >= target:
            break
        if rows + unit.rows / 2 <= target:
            took.append(unit)
            rows += unit.rows
    return took or list(units[: 1 if needs_one else 0])
