"""Actions after each optimizer step: validate, watch, save, stop.

Imports transformers, so import it inside a function.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import distributed
from transformers import TrainerCallback

from finery import Job, StepError
from finery_trl.train.saving import checkpoints
from finery_trl.train.schedule import Schedule

if TYPE_CHECKING:
    from finery_trl.settings import Training

Watch = Callable[[Any, int], dict[str, float]]
"""(model, optimizer step) → the metrics of the task."""


class Callback(TrainerCallback):
    """Decides when to validate, save and stop, and marks checkpoints.

    validates: whether there are rows for a validation loss. watch: measures the metrics of the task
    at each validation. tokens: in all batches so far, counted by the trainer; a tensor on a GPU.
    """

    def __init__(
        self,
        step: "Training",
        schedule: Schedule,
        job: Job,
        *,
        validates: bool,
        watch: Watch | None,
    ) -> None:
        self.tokens: Any = 0
        self._step = step
        self._schedule = schedule
        self._job = job
        self._validates = validates
        self._watch = watch

    def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Request what is due after this optimizer step, and measure the metrics of the task."""
        schedule, step = self._schedule, state.global_step
        last = step >= state.max_steps
        due = last or schedule.validates_at(step)
        control.should_evaluate = self._validates and due
        control.should_save = last or schedule.saves_at(step, self._step.save_steps)
        if due and self._watch is not None:
            self._job.progress(step, state.max_steps, "evaluating the model")
            metrics = self._watch(context["model"], step)
            state.log_history.append({"step": step, "epoch": state.epoch, "watch": metrics})
        if due and not self._validates:
            self._stop_early(state, control)

    def on_log(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Raise `StepError` if a loss is no longer a finite number."""
        logs = context["logs"]
        # The scaler of fp16 skips steps whose gradients overflow, and lowers its scale.
        norms = () if args.fp16 else ("grad_norm",)
        for name in ("loss", "eval_loss", *norms):
            if name in logs and not math.isfinite(logs[name]):
                raise StepError(
                    f"the training diverged: {name} is {logs[name]} at optimizer step "
                    f"{state.global_step}",
                    fix=(
                        "dtype: bf16 on a GPU with compute capability 8.0 or later, else dtype: "
                        "fp32, since fp16 ends at 65,504; or "
                        if args.fp16
                        else ""
                    )
                    + f"lower learning_rate (now {args.learning_rate:g}), or warm up longer",
                )

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop if there was no improvement for long enough."""
        self._stop_early(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the saved checkpoint as complete, then remove those that it replaces."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()  # each process writes its own random state
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            checkpoints.mark(folder / f"checkpoint-{state.global_step}")
            checkpoints.prune(folder, state.log_history, self._step.best)

    def _stop_early(self, state: Any, control: Any) -> None:
        patience = self._step.early_stopping_patience
        if checkpoints.exhausted(state.log_history, self._step.best, patience):
            self._job.log(f"stopping early: no improvement in {patience} validations")
            control.should_training_stop = control.should_save = True
