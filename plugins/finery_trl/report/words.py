"""What a training says in words: about its schedule, and where memory or disk ran out."""

import errno
from typing import TYPE_CHECKING

from finery import StepError
from finery_trl.train.schedule import Schedule

if TYPE_CHECKING:
    from finery_trl.settings import Training


def schedule_notes(step: "Training", schedule: Schedule) -> list[str]:
    """What settings ask for, and the training has too few optimizer steps for."""
    validates = step.validation is not None or step.watch is not None
    if not validates or step.eval_steps is None or step.eval_steps <= schedule.steps:
        return []
    return [
        f"eval_steps {step.eval_steps} is more than all optimizer steps of this training, "
        f"{schedule.steps}: its only validation is at its end"
    ]


def exhaustion(error: Exception, step: "Training", schedule: Schedule) -> StepError | None:
    """The error to show where memory or disk ran out, None for any other error."""
    import torch

    text = str(error).strip()
    # The CPU's allocator and torch's file writer have no classes of their own.
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if out_of_memory or "can't allocate memory" in text:
        return StepError(
            f"memory doesn't suffice for {schedule.size} rows of up to {schedule.longest} tokens "
            "at once",
            details=text.splitlines()[:1],
            fix=_less_memory(step, schedule.size),
        )
    if getattr(error, "errno", None) == errno.ENOSPC or "file write failed" in text:
        return StepError(
            "no disk space left for a checkpoint",
            where=str(schedule.folder),
            fix="free some and build again: the training goes on from its last whole checkpoint",
        )
    return None


def _less_memory(step: "Training", size: int) -> str:
    ways = [f"per_device_train_batch_size: {size // 2}"] if size > 1 else []
    ways += [] if step.gradient_checkpointing else ["gradient_checkpointing: true"]
    ways += [] if step.lora else ["an adapter instead of all weights (lora: {})"]
    return ", or ".join([*ways, "a lower max_length", "a smaller model"])
