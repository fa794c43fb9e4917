"""The progress of a training: its progress bar and live metrics, and steps that fp16 skips.

Imports transformers, so import it inside a function.
"""

import sys
import time
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from transformers import TrainerCallback

from finery import Job
from finery_trl.report.overflow import Overflow
from finery_trl.train.callback import Callback
from finery_trl.train.saving.checkpoints import MEASURED


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
        self._show(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock, since validations don't count."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # else the clock stops while the GPU has work left
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
        for name, metric in MEASURED.items():
            if name in logs and name.startswith("eval_"):
                self._job.metric(metric, logs[name], step)
        if "loss" in logs:
            self._report(logs, step, step == state.max_steps, args.world_size)
        if logs.keys() & {"loss", "eval_loss"}:
            self._show(state)

    def _show(self, state: Any) -> None:
        self._job.progress(state.global_step, state.max_steps)

    def _report(self, logs: dict[str, float], step: int, last: bool, processes: int) -> None:
        self._losses.append(logs["loss"])
        if not last and step % self._every:
            return
        self._job.metric("loss", sum(self._losses) / len(self._losses), step)
        self._losses.clear()
        for name, metric in MEASURED.items():
            if name in logs and name != "loss" and not name.startswith("eval_"):
                self._job.metric(metric, logs[name], step)
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
        unit = 1 if sys.platform == "darwin" else 1024
        return {**speed, "peak_memory": unit * getrusage(RUSAGE_SELF).ru_maxrss}
