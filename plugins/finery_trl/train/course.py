"""The course of a training: when it validates, saves and stops, and what it tells the job.

Imports transformers: import it inside a function.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import distributed
from transformers import TrainerCallback

from finery import Job, StepError
from finery_trl.train import checkpoints

Watch = Callable[[Any, int], dict[str, float]]
"""(model, optimizer step) → the task's metrics."""


class Rhythm(NamedTuple):
    """How often things happen, in optimizer steps.

    epoch: those of an epoch. validate: between two validations. save: between two further
    checkpoints, None for none. report: between two reports of the loss. patience: validations
    without a better one before the training stops, None: it never does.
    """

    epoch: int
    validate: int
    save: int | None
    report: int
    patience: int | None


class Course(TrainerCallback):
    """Decides when to validate and save, tells the job how it goes, and marks checkpoints.

    validates: whether there are rows for a validation loss. watch: measures the task's metrics at
    each validation. best: what the best checkpoint is chosen by, see `checkpoints.best_step`.
    tokens: of the batches since the last report; whoever trains counts them.
    """

    def __init__(
        self, job: Job, rhythm: Rhythm, *, validates: bool, watch: Watch | None, best: str
    ) -> None:
        self.tokens = 0
        self._job = job
        self._rhythm = rhythm
        self._validates = validates
        self._watch = watch
        self._best = best
        self._losses: list[float] = []
        self._seconds = 0.0
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar."""
        self._tell(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock, which stands still during validations."""
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Ask for what is due after this optimizer step, and measure the task's metrics."""
        self._seconds += time.perf_counter() - self._began
        rhythm, step = self._rhythm, state.global_step
        last = step >= state.max_steps
        due = last or step % rhythm.validate == 0
        control.should_evaluate = self._validates and due
        often = [rhythm.validate, rhythm.epoch, *([rhythm.save] if rhythm.save else [])]
        control.should_save = last or any(step % n == 0 for n in often)
        if due and self._watch is not None:
            self._job.progress(step, state.max_steps, "asking the model")
            found = self._watch(context["model"], step)
            state.log_history.append({"step": step, "epoch": state.epoch, "watch": found})
            for name, value in found.items():
                self._job.metric(f"watch.{name}", value, step)
        if due and not self._validates:
            self._stop_in_time(state, control)

    def on_log(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Report. `StepError` where a loss is no longer a number."""
        step, logs = state.global_step, context["logs"]
        for name in ("loss", "eval_loss", "grad_norm"):
            if name in logs and not math.isfinite(logs[name]):
                raise StepError(
                    f"the {name} is {logs[name]} at optimizer step {step}: training diverged",
                    fix=f"lower learning_rate (now {args.learning_rate:g}), or warm up longer",
                )
        for name, ours in checkpoints.MEASURED.items():
            if name in logs and name.startswith("eval_"):
                self._job.metric(ours, logs[name], step)
        if "loss" in logs:
            self._report(logs, step, step == state.max_steps, args.world_size)
        if logs.keys() & {"loss", "eval_loss"}:
            self._tell(state)

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop where it got no better for long enough."""
        self._stop_in_time(state, control)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark what was saved as whole, then remove what it replaces."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()  # each process writes its own random state
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            checkpoints.mark(folder / f"checkpoint-{state.global_step}")
            checkpoints.prune(folder, state.log_history, self._best)

    def _stop_in_time(self, state: Any, control: Any) -> None:
        patience = self._rhythm.patience
        if checkpoints.exhausted(state.log_history, self._best, patience):
            self._job.log(f"no better validation in {patience} of them: stopping early")
            control.should_training_stop = control.should_save = True

    def _tell(self, state: Any) -> None:
        self._job.progress(state.global_step, state.max_steps)

    def _report(self, logs: dict[str, float], step: int, last: bool, world: int) -> None:
        self._losses.append(logs["loss"])
        if not last and step % self._rhythm.report:
            return
        self._job.metric("loss", sum(self._losses) / len(self._losses), step)
        self._losses.clear()
        for name, ours in checkpoints.MEASURED.items():
            if name in logs and name != "loss" and not name.startswith("eval_"):
                self._job.metric(ours, logs[name], step)
        if self._seconds:
            self._job.metric("tokens_per_second", self.tokens * world / self._seconds, step)
        self.tokens, self._seconds = 0, 0.0
