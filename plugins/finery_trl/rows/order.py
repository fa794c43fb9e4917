"""The order of rows in training."""

import random
from collections.abc import Iterator, Sequence


class RandomOrder:
    """Random row indices for each epoch, so that each optimizer step learns from random rows.

    It is a sampler for torch, and accelerate calls `set_epoch`. The order depends only on the seed,
    the epoch and the rows. (The sampler of transformers uses the global random state of torch,
    which is lost when a training is interrupted.)

    Rows of similar length must not share a step: they are often of one class, and a step that sees
    few classes teaches the others' answers away. So length only decides the batch of a row within
    its step, where it changes padding but neither loss nor gradients.

    lengths: of the rows, in tokens. step: rows per optimizer step. fillers: number of indices that
    follow those of the rows in each epoch. by_length: put the rows of a step in the order of their
    lengths.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        step: int,
        seed: int,
        *,
        fillers: int = 0,
        by_length: bool = True,
    ) -> None:
        self._lengths = lengths
        self._step = step
        self._seed = seed
        self._fillers = fillers
        self._by_length = by_length
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths) + self._fillers

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        count = len(self._lengths)
        rows = random.Random(f"{self._seed} {self._epoch}").sample(range(count), count)
        steps = [rows[i : i + self._step] for i in range(0, count, self._step)]
        if self._epoch == 0:
            self._longest_first(steps)
        for step in steps:
            yield from sorted(step, key=lambda i: -self._lengths[i]) if self._by_length else step
        yield from range(count, len(self))

    def _longest_first(self, steps: list[list[int]]) -> None:
        """Begin with the step that has the longest row, so that one too large fails at once.

        Only the last step can be short. It must stay last, since torch cuts the rows again.
        """
        longest, whole = max(self._lengths), len(self._lengths) // self._step
        steps[:whole] = sorted(
            steps[:whole], key=lambda step: longest not in [self._lengths[i] for i in step]
        )


def missing_rows(rows: int, size: int, processes: int) -> int:
    """The number of rows missing for full batches of `size` rows in each of several processes."""
    return -rows % (size * processes) if processes > 1 else 0
