"""The order of rows in training."""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

POOL = 16
"""Number of batches with randomly chosen rows that are sorted by length together."""
LEAST = 0.1
"""The share of all tokens that must be saved by an order that is less random."""


class GroupedOrder:
    """Random row indices for each epoch, with rows of similar length in a batch.

    The order depends only on the seed, the epoch and the rows. (The sampler of transformers uses
    the global random state of torch, which is lost when a training is interrupted.) It is a sampler
    for torch, and accelerate calls `set_epoch`. The first batch is the longest, so that a training
    that doesn't fit into memory fails at once.

    lengths: of the rows, in tokens. size: rows per batch. fillers: number of indices that follow
    those of the rows in each epoch. prompts: token ids of what precedes the first answer of each
    row, if what several rows of a batch begin with is computed once: rows with one beginning, such
    as the same tools or the same conversation, then share batches where that saves enough.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        size: int,
        seed: int,
        prompts: Sequence[Sequence[int]] | None = None,
        *,
        fillers: int = 0,
    ) -> None:
        self._lengths = lengths
        self._fillers = fillers
        self._size = size
        self._seed = seed
        self._epoch = 0
        # Big-endian, so that the order of the bytes is the order of the numbers.
        self._prompts = None if prompts is None else [np.array(p, dtype=">u4") for p in prompts]

    def __len__(self) -> int:
        return len(self._lengths) + self._fillers

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = random.Random(f"{self._seed} {self._epoch}")
        rows = len(self._lengths)
        batches = self._batches(generator.sample(range(rows), rows))
        # Only the last batch can be short. It must stay last, since torch splits the rows again.
        short = batches.pop() if len(batches[-1]) < self._size else []
        generator.shuffle(batches)
        if self._epoch == 0:
            batches.sort(key=lambda b: self._longest(b) < max(self._lengths))
        return (i for batch in [*batches, short, range(rows, len(self))] for i in batch)

    def _batches(self, rows: Sequence[int]) -> list[list[int]]:
        """The most random way to cut `rows`, unless one that is less random saves enough."""
        best = self._by_length(rows)
        if self._prompts is None:
            return best
        prompts = self._prompts
        alike = sorted(rows, key=lambda i: prompts[i].tobytes())
        # Rows with the most in common, e.g. the parts of a conversation, come last.
        for way in (self._by_beginning(rows, alike), _cut(alike, self._size)):
            saved = self._repeated(way) - self._repeated(best)
            best = way if saved >= LEAST * sum(self._lengths) else best
        return best

    def _by_length(self, rows: Sequence[int]) -> list[list[int]]:
        batches: list[list[int]] = []
        for pool in _cut(rows, POOL * self._size):
            batches += _cut(sorted(pool, key=lambda i: -self._lengths[i]), self._size)
        return batches

    def _by_beginning(self, rows: Sequence[int], alike: Sequence[int]) -> list[list[int]]:
        """Batches of random rows whose prompts have half of their tokens in common.

        alike: the rows in the order of their prompts.
        """
        assert self._prompts is not None
        place = {row: at for at, row in enumerate(rows)}
        groups: list[list[int]] = []
        for row in alike:
            prompt = self._prompts[row]
            if not groups or 2 * _common(self._prompts[groups[-1][0]], prompt) < len(prompt):
                groups.append([])
            groups[-1].append(row)
        batches: list[list[int]] = []
        rest: list[int] = []
        for group in groups:
            *full, last = _cut(sorted(group, key=place.__getitem__), self._size)
            batches += full
            rest += last
        return batches + _cut(rest, self._size)

    def _repeated(self, batches: Sequence[Sequence[int]]) -> int:
        """Tokens that rows begin with as an earlier row of their batch does."""
        assert self._prompts is not None
        total = 0
        for batch in batches:
            prompts = [self._prompts[i] for i in batch]
            for at in range(1, len(prompts)):
                total += max(_common(prompts[at], earlier) for earlier in prompts[:at])
        return total

    def _longest(self, batch: Sequence[int]) -> int:
        return max(self._lengths[i] for i in batch)


def missing_rows(rows: int, size: int, processes: int) -> int:
    """How many rows are missing for full batches of `size` rows in each of several processes."""
    return -rows % (size * processes) if processes > 1 else 0


def _common(one: npt.NDArray[np.uint32], other: npt.NDArray[np.uint32]) -> int:
    """The number of tokens that both begin with."""
    both = min(len(one), len(other))
    differing = np.flatnonzero(one[:both] != other[:both])
    return int(differing[0]) if len(differing) else both


def _cut(rows: Sequence[int], size: int) -> list[list[int]]:
    return [list(rows[i : i + size]) for i in range(0, len(rows), size)]
