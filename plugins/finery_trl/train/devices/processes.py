"""The number of processes that train, compared with the GPUs of this machine."""

from typing import TYPE_CHECKING

from finery import StepError

if TYPE_CHECKING:
    from finery_trl.settings import Training

PROCESSES = "launch.processes"


def visible_gpus() -> int:
    """How many GPUs this process can use, 0 without CUDA; `CUDA_VISIBLE_DEVICES` limits them."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def automatic(step: "Training") -> int:
    """Processes for `auto`: one per visible GPU, as far as they divide the effective batch."""
    batches = step.effective_batch_size // (step.per_device_train_batch_size or 1)
    return next(n for n in range(max(1, visible_gpus()), 0, -1) if batches % n == 0)


def check_processes(step: "Training") -> None:
    """Raise `StepError` if there are fewer GPUs than processes. CPUs are shared."""
    gpus = visible_gpus()
    if gpus and step.processes > gpus:
        raise StepError(
            f"{step.processes} processes need {step.processes} GPUs, but this machine shows {gpus}",
            where=PROCESSES,
            fix="processes: auto takes all visible GPUs; CUDA_VISIBLE_DEVICES decides which are",
        )


def processes_note(step: "Training") -> str | None:
    """A line for the log about how many processes `auto` resolves to."""
    if step.launch is None or step.launch.processes != "auto":
        return None
    gpus = visible_gpus()
    if step.processes == gpus:
        return f"training on all {gpus} visible GPUs" if gpus > 1 else "training on the only GPU"
    if not gpus:
        return "no GPU is visible: training in one process"
    return (
        f"training on {step.processes} of {gpus} visible GPUs, since effective_batch_size "
        f"{step.effective_batch_size} must be a multiple of them"
    )
