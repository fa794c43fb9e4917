"""The order of rows in training."""

import random
from collections.abc import Iterator, Sequence

POOL = 16
"""Number of batches with randomly chosen rows that are sorted by length together."""


class LengthGroupedOrder:
    """Random row indices for each epoch, with rows of similar length in a batch.

    The order depends only on the seed and the epoch. (The sampler of transformers uses the global
    random state of torch, which is lost when a training is interrupted.) It is a sampler for torch,
    and accelerate calls `set_epoch`. The first batch is the longest, so that a training that
    doesn't fit into memory fails at once.

    lengths: of the rows, in tokens. size: rows per batch.
    """

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self._lengths = lengths
        self._size = size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self._seed} {self._epoch}")
        rows = generator.sample(range(len(self)), len(self))
        batches: list[list[int]] = []
        for pool in _cut(rows, POOL * self._size):
            batches += _cut(sorted(pool, key=lambda i: -self._lengths[i]), self._size)
        # Only the last batch can be short. It must stay last, since torch splits the rows again.
        short = batches.pop() if len(batches[-1]) < self._size else []
        generator.shuffle(batches)
        if self._epoch == 0:
            batches.sort(key=lambda b: self._longest(b) < max(self._lengths))
        return (i for batch in [*batches, short] for i in batch)

    def _longest(self, batch: Sequence[int]) -> int:
        return max(self._lengths[i] for i in batch)


def _cut(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]
