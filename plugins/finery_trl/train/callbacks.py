"""What happens after each optimizer step: validate, watch, save, stop, and report.

Imports transformers, so import it inside a function.
"""

import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from transformers import TrainerCallback

from finery import Job, StepError, outside_key
from finery.advanced import counted
from finery_transformers.hardware import accelerator
from finery_trl.train import checkpoints
from finery_trl.train.checkpoints import measured
from finery_trl.train.schedule import Schedule

if TYPE_CHECKING:
    from finery_trl.settings import Training


Watch = Callable[[Any, int], dict[str, float]]
"""(model, optimizer step) → the metrics of the task."""
UNSAVED = 60.0
"""Seconds without a checkpoint after which the training of an adapter writes one."""
SAVING = 0.02
"""Largest share of the time that these checkpoints take, as far as the last one shows."""


@outside_key
class Unsaved:
    """The time since the last checkpoint."""

    def __init__(self) -> None:
        self._since = self._began = time.monotonic()
        self._wait = UNSAVED

    def is_long(self) -> bool:
        """Whether another checkpoint is worth its time."""
        return time.monotonic() - self._since >= self._wait

    def saving(self) -> None:
        """A checkpoint may be written from now on."""
        self._began = time.monotonic()

    def saved(self) -> None:
        """It has been written."""
        self._since = time.monotonic()
        self._wait = max(UNSAVED, (self._since - self._began) / SAVING)


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
        self._unsaved = Unsaved()

    def on_train_begin(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Measure the metrics of the task before the training, if the step compares with them."""
        if self._watch is not None and self._step.watches_start and not state.global_step:
            self._job.progress(0, state.max_steps, "evaluating the model")
            metrics = self._watch(context["model"], 0)
            state.log_history.append({"step": 0, "epoch": 0, "watch_start": metrics})

    def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Request what is due after this optimizer step, and measure the metrics of the task."""
        schedule, step = self._schedule, state.global_step
        last, due = step >= state.max_steps, self.is_due(state)
        control.should_evaluate = self._validates and due
        # Whole models have none of these, since their checkpoints are large. Several processes
        # would have to agree on the time.
        is_long = self._step.lora is not None and args.world_size == 1 and self._unsaved.is_long()
        saves = is_long or schedule.saves_at(step, self._step.save_steps)
        has_new_answers = step % schedule.shared == 0  # else the next step learns from the same
        control.should_save = last or (saves and has_new_answers)
        if due and self._watch is not None:
            self._job.progress(step, state.max_steps, "evaluating the model")
            metrics = self._watch(context["model"], step)
            state.log_history.append({"step": step, "epoch": state.epoch, "watch": metrics})
            if reason := self._step.stop_reason(state.log_history, self._job):
                state.log_history[-1]["stopped"] = reason
                self._job.log(reason)
                control.should_training_stop = control.should_save = True
        if due and not self._validates:
            self._stop_early(state, control)
        self._unsaved.saving()

    def is_due(self, state: Any) -> bool:
        """Whether this optimizer step is followed by a validation."""
        step: int = state.global_step
        return step >= state.max_steps or step % self._schedule.validate == 0

    @outside_key
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
        self._unsaved.saving()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the saved checkpoint as complete, then remove those that it replaces."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.barrier()  # each process writes its own random state
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            checkpoints.mark(folder / f"checkpoint-{state.global_step}")
            checkpoints.prune(folder, state.log_history, self._step.best_by)
        self._unsaved.saved()

    def _stop_early(self, state: Any, control: Any) -> None:
        patience = self._step.early_stopping_patience
        if checkpoints.exhausted(state.log_history, self._step.best_by, patience):
            self._job.log(f"stopping early: no improvement in {patience} validations")
            control.should_training_stop = control.should_save = True


IN_A_ROW = 20
"""Skipped steps after which a training ends. The scaler multiplies the loss by 65,536 at first and
halves this at each skipped step, so that gradients overflow by themselves after 17 of them."""
SHARE = 0.1
"""Of all steps. If more are skipped, too much of the training is lost."""


@outside_key
def ready_trackers(step: "Training") -> list[str]:
    """The step's trackers, as `report_to` of transformers takes them, after setting their folders.

    The folders go into the environment variables that the trackers read, unless those are set.
    Raises `StepError` for a tracker whose library isn't installed.
    """
    for name in step.report_to:
        if importlib.util.find_spec(name) is None:
            raise StepError(f"report_to: {name} isn't installed", fix=f"pip install {name}")
    folder = Path(step.tracking_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    places = {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
        "WANDB_DIR": str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    for variable, place in places.items():
        os.environ.setdefault(variable, place)
    return list(step.report_to)


@outside_key
class Progress(TrainerCallback):
    """Reports measurements of the trainer to the job. Must be called after `callback`.

    every: optimizer steps between reports of the loss. callback: counts tokens and adds watched
    metrics to the history.
    """

    def __init__(self, job: Job, every: int, callback: Callback) -> None:
        self._job = job
        self._every = every
        self._callback = callback
        self._losses: list[float] = []
        self._tokens = 0  # in the batches up to the last report
        self._seconds = 0.0  # since then
        self._all_tokens = self._all_seconds = 0.0
        self._began = 0.0
        self._overflow = Overflow(job)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the progress bar."""
        self._job.progress(state.global_step, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock, since validations don't count."""
        if accelerator() != "cpu":
            torch.accelerator.synchronize()  # else the clock stops while the GPU has work left
        self._seconds += time.perf_counter() - self._began

    def on_step_end(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Report the newest watched metrics, and end a training for which fp16 is too narrow."""
        if args.fp16:
            self._overflow.after_step(context.get("optimizer"), state)
        last = state.log_history[-1] if state.log_history else {}
        if last.get("step") != state.global_step or "watch" not in last:
            return
        for name, value in last["watch"].items():
            self._job.metric(f"watch.{name}", value, state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Report losses and other measurements."""
        step, logs = state.global_step, context["logs"]
        for metric, value in measured(logs).items():
            if metric.startswith("eval_"):
                self._job.metric(metric, value, step)
        if "loss" in logs:
            self._report(logs, step, step == state.max_steps, args.world_size)
        if logs.keys() & {"loss", "eval_loss"}:
            self._job.progress(state.global_step, state.max_steps)

    def _report(self, logs: dict[str, float], step: int, last: bool, processes: int) -> None:
        self._losses.append(logs["loss"])
        if not last and step % self._every:
            return
        self._job.metric("loss", sum(self._losses) / len(self._losses), step)
        self._losses.clear()
        for metric, value in measured(logs).items():
            if metric != "loss" and not metric.startswith("eval_"):
                self._job.metric(metric, value, step)
        until_now = int(self._callback.tokens)
        if self._seconds:
            tokens = (until_now - self._tokens) * processes
            self._job.metric("tokens_per_second", tokens / self._seconds, step)
            self._all_tokens += tokens
            self._all_seconds += self._seconds
        self._tokens, self._seconds = until_now, 0.0

    def measured(self) -> dict[str, int]:
        """Tokens per second of this run, and the most memory of this process, in bytes."""
        if not self._all_seconds:  # all of it was trained before
            return {}
        speed = {"tokens_per_second": round(self._all_tokens / self._all_seconds)}
        if torch.cuda.is_available():
            return {**speed, "peak_gpu_memory": torch.cuda.max_memory_reserved()}
        if accelerator() == "mps":  # what torch took so far, and hasn't given back
            return {**speed, "peak_gpu_memory": torch.mps.driver_allocated_memory()}
        unit = 1 if sys.platform == "darwin" else 1024
        return {**speed, "peak_memory": unit * getrusage(RUSAGE_SELF).ru_maxrss}


class Overflow:
    """Whether fp16 is wide enough: counts the steps whose gradients overflowed."""

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
            is_much = self._skipped > SHARE * self._steps
            advice = f". To train on all rows, {wider()}" if is_much else ""
            self._job.log(
                f"the gradients of {self._skipped} of {counted(self._steps, 'optimizer step')} "
                f"overflowed in fp16, so that these steps changed nothing{advice}"
            )


def wider() -> str:
    """The dtype to use instead of fp16 on this machine."""
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        return "set dtype: bf16, which has the range of fp32"
    return "set dtype: fp32, or dtype: bf16 on a GPU with compute capability 8.0 or later"
