"""The size of a training: rows in memory at once, optimizer steps an epoch and in all."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from finery import Job, UsageError

if TYPE_CHECKING:
    from finery_trl.settings import Proven, Training


class Plan(NamedTuple):
    """How a training goes through its rows.

    folder: of its checkpoints. size: rows in memory of each process. accumulated: batches of a
    process in an optimizer step. epoch_steps, steps: optimizer steps of an epoch, and of all.
    longest: tokens of the longest row.
    """

    folder: Path
    size: int
    accumulated: int
    epoch_steps: int
    steps: int
    longest: int

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
        return cls(job.scratch / "checkpoints", size, accumulated, epoch_steps, steps, longest)

    @classmethod
    def of_rows(cls, step: "Training", rows: "Sequence[Proven]", job: Job) -> Self:
        """The plan for rows in tokens."""
        return cls.of(step, len(rows), max(row.size for row in rows), job)

    def notes(self, step: "Training") -> list[str]:
        """What the settings ask for and there are too few steps for."""
        validates = step.validation is not None or step.watch is not None
        if not validates or step.eval_steps is None or step.eval_steps <= self.steps:
            return []
        return [
            f"eval_steps {step.eval_steps} is more than all optimizer steps of this training, "
            f"{self.steps}: its only validation is at its end"
        ]
