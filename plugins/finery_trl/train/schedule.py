"""The schedule of a training: batches, optimizer steps, and when it validates and saves."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from finery import Job, UsageError

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.settings import Training


class Schedule(NamedTuple):
    """How a training goes through its rows.

    folder: of its checkpoints. size: rows in memory of each process. accumulated: batches of a
    process in an optimizer step. epoch_steps, steps: optimizer steps of an epoch, and of all.
    longest: tokens of the longest row. validate: optimizer steps between two validations.
    """

    folder: Path
    size: int
    accumulated: int
    epoch_steps: int
    steps: int
    longest: int
    validate: int

    @classmethod
    def of(cls, step: "Training", rows: int, longest: int, job: Job) -> Self:
        """Count as transformers does; the last optimizer step of an epoch may be a small one.

        Raises `UsageError` where the warm-up is longer than the training.
        """
        size = step.batch_size(longest)
        accumulated = step.effective_batch_size // (size * step.processes)
        batches = math.ceil(math.ceil(rows / size) / step.processes)
        epoch_steps = math.ceil(batches / accumulated)
        steps = math.ceil(epoch_steps * step.epochs)
        if step.warmup_steps is not None and step.warmup_steps > steps:
            raise UsageError(
                f"warmup_steps {step.warmup_steps} is more than all optimizer steps of this "
                f"training, {steps}: its learning rate would never be reached",
                where="warmup_steps",
                fix=f"warmup_steps: {min(10, steps // 10)}, or more epochs",
            )
        return cls(
            folder=job.scratch / "checkpoints",
            size=size,
            accumulated=accumulated,
            epoch_steps=epoch_steps,
            steps=steps,
            longest=longest,
            validate=step.eval_steps or epoch_steps,
        )

    @classmethod
    def of_rows(cls, step: "Training", rows: "Sequence[Proven]", job: Job) -> Self:
        """The schedule for rows in tokens."""
        return cls.of(step, len(rows), max(row.size for row in rows), job)

    def validates_at(self, step: int) -> bool:
        """Whether a validation is due after this optimizer step, besides the last one."""
        return step % self.validate == 0

    def saves_at(self, step: int, every: int | None) -> bool:
        """Whether a checkpoint is due after this optimizer step, besides the last one.

        every: optimizer steps between two further checkpoints.
        """
        intervals = [self.validate, self.epoch_steps, *([every] if every else [])]
        return any(step % interval == 0 for interval in intervals)
