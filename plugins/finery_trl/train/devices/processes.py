"""The number of processes that train, compared with the GPUs of this machine."""

from typing import TYPE_CHECKING

from finery import StepError
from finery_transformers.precision import usable_gpus

if TYPE_CHECKING:
    from finery_trl.settings import Training

PROCESSES = "launch.processes"
INSTANCE = "MIG-"
"""Prefix of the id of an instance of a partitioned GPU."""


def count_gpus() -> int:
    """How many processes can have a separate GPU; 0 if torch can't use any.

    Counted as the scheduler counts them, which gives a step its GPUs. CUDA shows a process only one
    instance of a partitioned GPU, so instances never train together.
    """
    gpus = usable_gpus()
    whole = [gpu for gpu in gpus if not gpu.id.startswith(INSTANCE)]
    return len(whole) or min(1, len(gpus))


def automatic(step: "Training") -> int:
    """Processes for `auto`: one per visible GPU, as far as they divide the effective batch."""
    batches = step.effective_batch_size // (step.per_device_train_batch_size or 1)
    most = min(count_gpus(), step.effective_batch_size // step.fewest_rows)
    return next(n for n in range(max(1, most), 0, -1) if batches % n == 0)


def check_processes(step: "Training") -> None:
    """Raise `StepError` if there are fewer GPUs than processes. CPUs are shared."""
    gpus = count_gpus()
    if gpus and step.processes > gpus:
        raise StepError(
            f"{step.processes} processes need {step.processes} GPUs, but this machine shows {gpus}",
            where=PROCESSES,
            fix="processes: auto takes all visible GPUs; gpus of the step and CUDA_VISIBLE_DEVICES "
            "decide which are",
        )


def processes_note(step: "Training") -> str | None:
    """A line for the log about how many processes `auto` resolves to."""
    if step.launch is None or step.launch.processes != "auto":
        return None
    gpus = count_gpus()
    if step.processes == gpus:
        return f"training on all {gpus} visible GPUs" if gpus > 1 else "training on the only GPU"
    if not gpus:
        return "there is no GPU that torch can use: training in one process"
    return (
        f"training on {step.processes} of {gpus} visible GPUs, since effective_batch_size "
        f"{step.effective_batch_size} must be a multiple of them"
    )
