"""Rows chosen at random, so that added rows change little.

Each row draws a number from its id and the seed; the k rows with the lowest numbers are a sample
of k without replacement (bottom-k sampling, Cohen & Kaplan 2007). A row that is added can only
push out as many as it adds.
"""

import heapq
from array import array
from collections.abc import Iterable, Sequence

from blake3 import blake3

from finery.rows.parts import row_id_of
from finery.rows.row import Row


def row_draw(row: Row, seed: int) -> int:
    """The number that a row draws, uniform in [0, 2⁶⁴) and independent for each seed."""
    content = seed.to_bytes(8, "big") + row_id_of(row).encode("utf-8")
    return int.from_bytes(blake3(content).digest(8), "big")


def row_draws(rows: Iterable[Row], seed: int) -> "array[int]":
    """The draws of all rows, as 64-bit integers."""
    return array("Q", (row_draw(row, seed) for row in rows))


def sample_counts(draws: "array[int]", members: Sequence[int], count: int) -> dict[int, int]:
    """Row → how often it is taken, so that `count` rows of `members` are taken in all.

    Where there are fewer than that, each is taken as often as any other, or once more.
    """
    if not members:
        return {}
    rounds, remainder = divmod(count, len(members))
    counts = dict.fromkeys(members, rounds) if rounds else {}
    for row in heapq.nsmallest(remainder, members, key=lambda i: (draws[i], i)):
        counts[row] = counts.get(row, 0) + 1
    return counts


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `total` (largest remainders)."""
    total_weight = sum(weights)
    exact = [total * weight / total_weight for weight in weights]
    counts = [int(share) for share in exact]
    order = sorted(range(len(counts)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts
