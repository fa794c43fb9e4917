"""The order of rows in training."""

import random
from collections.abc import Iterator, Sequence

POOL = 16
"""Batches' worth of random rows that are sorted by length together."""


class LengthGroupedOrder:
    """Row indices, epoch by epoch: random, with rows of about the same length in a batch.

    The order depends on the seed and the epoch alone. (transformers' own sampler draws from
    torch's global random state, which an interrupted training no longer has.) torch takes it as a
    sampler, and accelerate calls `set_epoch`. The very first batch is the longest, so that a
    training that doesn't fit into memory fails at once.

    lengths: of the rows, in tokens. size: rows in a batch.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self._lengths = lengths
        self._size = size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self._seed} {self._epoch}")
        rows = generator.sample(range(len(self)), len(self))
        batches: list[list[int]] = []
        for pool in _cut(rows, POOL * self._size):
            batches += _cut(sorted(pool, key=lambda i: -self._lengths[i]), self._size)
        # Only the last batch can be short, and it must stay last: torch cuts them anew.
        short = batches.pop() if len(batches[-1]) < self._size else []
        generator.shuffle(batches)
        if self._epoch == 0:
            batches.sort(key=lambda b: self._longest(b) < max(self._lengths))
        return (i for batch in [*batches, short] for i in batch)

    def _longest(self, batch: Sequence[int]) -> int:
        return max(self._lengths[i] for i in batch)


def _cut(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]
