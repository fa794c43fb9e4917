"""The schedule of a training: batches, optimizer steps, validations and checkpoints."""

import math
from collections.abc import Sequence
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
    the longest row. validate: optimizer steps between validations.
    """

    folder: Path
    size: int
    grouped: int
    accumulated: int
    epoch_steps: int
    steps: int
    longest: int
    validate: int

    @classmethod
    def of(cls, step: "Training", rows: int, longest: int, job: Job) -> Self:
        """Count steps in the same way as transformers; the last step of an epoch may be smaller.

        Raises `UsageError` if the warm-up is longer than the training.
        """
        size = step.batch_size(longest)
        accumulated = step.effective_batch_size // (size * step.processes)
        batches = math.ceil(math.ceil(rows / size) / step.processes)
        epoch_steps = math.ceil(batches / accumulated)
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
        )

    @classmethod
    def of_rows(cls, step: "Training", rows: "Sequence[Proven]", job: Job) -> Self:
        """The schedule for rows as tokens."""
        return cls.of(step, len(rows), max(row.size for row in rows), job)

    def validates_at(self, step: int) -> bool:
        """Whether a validation is due after this optimizer step, apart from the last one."""
        return step % self.validate == 0

    def saves_at(self, step: int, every: int | None) -> bool:
        """Whether a checkpoint is due after this optimizer step, apart from the last one.

        every: optimizer steps between additional checkpoints.
        """
        intervals = [self.validate, self.epoch_steps, *([every] if every else [])]
        return any(step % interval == 0 for interval in intervals)
