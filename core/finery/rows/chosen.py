"""Rows chosen at random, so that added rows change little.

Each row draws a number from its id and the seed; the k rows with the lowest numbers are a sample
of k without replacement (bottom-k sampling, Cohen & Kaplan 2007). A row that is added can only
push out as many as it adds.
"""

import heapq
from array import array
from collections.abc import Iterable, Sequence

from blake3 import blake3

from finery.rows.parts import id_of
from finery.rows.row import Row


def draw_of(row: Row, seed: int) -> int:
    """The number that a row draws, uniform in [0, 2⁶⁴) and independent for each seed."""
    content = seed.to_bytes(8, "big") + id_of(row).encode("utf-8")
    return int.from_bytes(blake3(content).digest(8), "big")


def draws_of(rows: Iterable[Row], seed: int) -> "array[int]":
    """The draws of all rows, as 64-bit integers."""
    return array("Q", (draw_of(row, seed) for row in rows))


def times_taken(draws: "array[int]", members: Sequence[int], count: int) -> dict[int, int]:
    """Row → how often it is taken, so that `count` rows of `members` are taken in all.

    Where there are fewer than that, each is taken as often as any other, or once more.
    """
    if not members:
        return {}
    every, rest = divmod(count, len(members))
    taken = dict.fromkeys(members, every) if every else {}
    for row in heapq.nsmallest(rest, members, key=lambda i: (draws[i], i)):
        taken[row] = taken.get(row, 0) + 1
    return taken


def parts_of(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `total` (largest remainders)."""
    whole = sum(weights)
    exact = [total * weight / whole for weight in weights]
    parts = [int(share) for share in exact]
    order = sorted(range(len(parts)), key=lambda i: (parts[i] - exact[i], i))
    for i in order[: total - sum(parts)]:
        parts[i] += 1
    return parts
