"""Messages of a training: about its schedule, and about memory or disk space that ran out."""

import errno
from typing import TYPE_CHECKING

from finery import StepError
from finery_transformers.exhaustion import is_out_of_memory
from finery_trl.train.schedule import Schedule

if TYPE_CHECKING:
    from finery_trl.settings import Training


def schedule_notes(step: "Training", schedule: Schedule) -> list[str]:
    """Notes on settings that need more optimizer steps than the training has."""
    validates = step.validation is not None or step.watch is not None
    if not validates or step.eval_steps is None or step.eval_steps <= schedule.steps:
        return []
    return [
        f"eval_steps is {step.eval_steps}, but the training has {schedule.steps} optimizer steps: "
        "its only validation is at the end"
    ]


def exhaustion(error: Exception, step: "Training", schedule: Schedule) -> StepError | None:
    """The error to show if memory or disk space ran out, None for any other error."""
    text = str(error).strip()
    if is_out_of_memory(error):
        return StepError(
            f"not enough memory for {schedule.size} rows of up to {schedule.longest} tokens at "
            "once",
            details=text.splitlines()[:1],
            fix=_less_memory(step, schedule.size),
        )
    # The file writer of torch has no exception class of its own.
    if getattr(error, "errno", None) == errno.ENOSPC or "file write failed" in text:
        return StepError(
            "no disk space left for a checkpoint",
            where=str(schedule.folder),
            fix="free some space and build again: the training continues from its last checkpoint",
        )
    return None


def _less_memory(step: "Training", size: int) -> str:
    ways = [f"per_device_train_batch_size: {size // 2}"] if size > 1 else []
    ways += [] if step.gradient_checkpointing else ["gradient_checkpointing: true"]
    ways += ["quantization: nf4"] if step.lora and step.quantization is None else []
    ways += [] if step.lora else ["an adapter instead of all weights (lora: {})"]
    return ", or ".join([*ways, "a lower max_length", "a smaller model"])
