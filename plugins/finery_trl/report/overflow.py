"""Checks if fp16 is wide enough for a training, by the steps that its gradient scaler skips."""

from typing import Any

from finery import Job, StepError, counted

IN_A_ROW = 20
"""Skipped steps after which a training ends. The scaler multiplies the loss by 65,536 at first and
halves this at each skipped step, so that gradients overflow by themselves after 17 of them."""
SHARE = 0.1
"""Of all steps. If more are skipped, too much of the training is lost."""


class Overflow:
    """Counts the steps of a training in fp16 whose gradients overflowed."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._steps = self._skipped = self._in_a_row = 0

    def after_step(self, optimizer: Any, state: Any) -> None:
        """Count an optimizer step. Raises `StepError` if the training can't succeed.

        optimizer: of accelerate, which knows whether the scaler skipped the step. state: of the
        trainer.
        """
        is_skipped = bool(getattr(optimizer, "step_was_skipped", False))
        self._steps += 1
        self._skipped += is_skipped
        self._in_a_row = self._in_a_row + 1 if is_skipped else 0
        last = state.global_step >= state.max_steps
        if self._in_a_row >= IN_A_ROW or (last and self._skipped == self._steps):
            raise StepError(
                "fp16 is too narrow for this training: gradients overflowed in "
                f"{counted(self._in_a_row, 'optimizer step')} in a row, up to step "
                f"{state.global_step}, so that these steps changed nothing",
                fix=wider(),
            )
        if last and self._skipped:
            advice = f". To train on all rows, {wider()}" if self._is_much() else ""
            self._job.log(
                f"the gradients of {self._skipped} of {counted(self._steps, 'optimizer step')} "
                f"overflowed in fp16, so that these steps changed nothing{advice}"
            )

    def _is_much(self) -> bool:
        return self._skipped > SHARE * self._steps


def wider() -> str:
    """The dtype to use instead of fp16 on this machine."""
    import torch

    newer = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if newer:
        return "set dtype: bf16, which has the range of fp32"
    return "set dtype: fp32, or dtype: bf16 on a GPU with compute capability 8.0 or later"
