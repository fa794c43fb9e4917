"""The schedule of a training: the order of its rows, batches, optimizer steps and validations."""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from finery import Job, UsageError

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.settings import Training


class Schedule(NamedTuple):
    """The schedule of a training: its batches, steps and validations.

    folder: of its checkpoints. size: rows in memory per process. grouped: rows per batch of the
    order, which is that of one process however many train. accumulated: batches per process in an
    optimizer step. epoch_steps, steps: optimizer steps per epoch, and in all. longest: tokens of
    the longest row. validate: optimizer steps between validations. shared: optimizer steps that
    learn from the same answers, between which no checkpoint is saved.
    """

    folder: Path
    size: int
    grouped: int
    accumulated: int
    epoch_steps: int
    steps: int
    longest: int
    validate: int
    shared: int

    @classmethod
    def of(cls, step: "Training", rows: int, longest: int, job: Job) -> Self:
        """Count steps in the same way as transformers; the last step of an epoch may be smaller.

        Raises `UsageError` if the warm-up is longer than the training.
        """
        size = step.batch_size(longest)
        accumulated = step.effective_batch_size // (size * step.processes)
        batches = math.ceil(math.ceil(rows * step.answers_per_row / size) / step.processes)
        epoch_steps = math.ceil(batches / accumulated) * step.shared_steps
        steps = math.ceil(epoch_steps * step.epochs)
        if step.warmup_steps is not None and step.warmup_steps > steps:
            raise UsageError(
                f"warmup_steps is {step.warmup_steps}, but the training has {steps} optimizer "
                "steps: the learning rate would never reach its peak",
                where="warmup_steps",
                fix=f"warmup_steps: {min(10, steps // 10)}, or more epochs",
            )
        return cls(
            folder=job.scratch / "checkpoints",
            size=size,
            grouped=step.batch_size(longest, processes=1),
            accumulated=accumulated,
            epoch_steps=epoch_steps,
            steps=steps,
            longest=longest,
            validate=step.eval_steps or epoch_steps,
            shared=step.shared_steps,
        )

    @classmethod
    def of_rows(cls, step: "Training", rows: "Sequence[Proven]", job: Job) -> Self:
        """The schedule for rows as tokens."""
        return cls.of(step, len(rows), max(row.size for row in rows), job)

    def saves_at(self, step: int, every: int | None) -> bool:
        """Whether a checkpoint is due after this optimizer step, apart from the last one.

        every: optimizer steps between additional checkpoints.
        """
        intervals = [self.validate, self.epoch_steps, *([every] if every else [])]
        return any(step % interval == 0 for interval in intervals)


@dataclass
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

    lengths: Sequence[int]
    step: int
    seed: int
    fillers: int = 0
    by_length: bool = True
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.lengths) + self.fillers

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        count = len(self.lengths)
        rows = random.Random(f"{self.seed} {self.epoch}").sample(range(count), count)
        steps = [rows[i : i + self.step] for i in range(0, count, self.step)]
        if self.epoch == 0:
            self._longest_first(steps)
        for step in steps:
            yield from sorted(step, key=lambda i: -self.lengths[i]) if self.by_length else step
        yield from range(count, len(self))

    def _longest_first(self, steps: list[list[int]]) -> None:
        """Begin with the step that has the longest row, so that one too large fails at once.

        Only the last step can be short. It must stay last, since torch cuts the rows again.
        """
        longest, full_updates = max(self.lengths), len(self.lengths) // self.step
        steps[:full_updates] = sorted(
            steps[:full_updates], key=lambda step: longest not in [self.lengths[i] for i in step]
        )


def missing_rows(rows: int, size: int, processes: int) -> int:
    """The number of rows missing for full batches of `size` rows in each of several processes."""
    return -rows % (size * processes) if processes > 1 else 0
