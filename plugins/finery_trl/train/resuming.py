"""Runs any trainer of transformers to its end: checkpoints, resumption, progress and the curve.

For step types of other plugins, whose rows and losses aren't those of TRL. The trainer must save a
checkpoint with each validation, and with the last step. Imports torch, so import it inside a
function.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from finery import Job, StepError, outside_key
from finery_trl.train.checkpoints import MARK, chosen, history_of, last_whole, mark, prune, step_of
from finery_trl.train.run import deterministic
from finery_trl.train.save import curve_of

STATE = ("optimizer.pt", "scheduler.pt", "rng_state*", "trainer_state.json", "scaler.pt", MARK)
"""Files of a checkpoint that aren't part of the model."""
SETFIT_LOSS = "embedding_loss"
"""SetFit's name for the loss."""


class Ended(NamedTuple):
    """A finished training.

    checkpoint: with the lowest validation loss; without validation, the last one. curve: see
    `finery_trl.view.curves`.
    """

    checkpoint: Path
    curve: list[dict[str, Any]]

    def facts(self) -> dict[str, Any]:
        """For the `meta` of the model."""
        last, best = self.curve[-1], step_of(self.checkpoint)
        losses = {p["step"]: p["eval_loss"] for p in self.curve if "eval_loss" in p}
        facts = {"steps": last["step"], "best_step": best, "epochs": round(last["epoch"], 4)}
        return facts | ({"eval_loss": round(losses[best], 6)} if losses else {})

    def write_curve(self, folder: Path) -> None:
        """Write the curve into a model's folder."""
        text = json.dumps(self.curve, indent=1) + "\n"
        (folder / "curve.json").write_text(text, encoding="utf-8")


def train(trainer: Any, job: Job) -> Ended:
    """Train from the last whole checkpoint on, with deterministic kernels.

    Raises `StepError` if the loss is no longer a finite number.
    """
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(_Report(job))
    folder = Path(trainer.args.output_dir)
    last = last_whole(folder)
    if last is None or not _is_over(last):
        if last is not None:
            job.log(f"continuing from optimizer step {step_of(last)}")
        with deterministic(strict=True):
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        last = last_whole(folder)
    assert last is not None  # the trainer saves after the last step
    history = [
        {"loss" if name == SETFIT_LOSS else name: value for name, value in entry.items()}
        for entry in history_of(last)
    ]
    return Ended(chosen(folder), curve_of(history))


def _is_over(checkpoint: Path) -> bool:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] >= state["max_steps"])


class _Report(TrainerCallback):
    """Reports to the job, marks checkpoints, and ends a training that diverges."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @outside_key
    def on_log(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Report losses. Raises `StepError` if one is no longer a finite number."""
        self._job.progress(state.global_step, state.max_steps)
        for name in ("loss", SETFIT_LOSS, "learning_rate", "eval_loss"):
            value = context["logs"].get(name)
            if value is None:
                continue
            if not math.isfinite(value):
                raise StepError(
                    f"the training diverged: {name} is {value} at optimizer step "
                    f"{state.global_step}",
                    fix=f"lower learning_rate (now {args.learning_rate:g})",
                )
            self._job.metric("loss" if name == SETFIT_LOSS else name, value, state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the saved checkpoint as complete, then remove those that it replaces."""
        folder = Path(args.output_dir)
        mark(folder / f"checkpoint-{state.global_step}")
        prune(folder, state.log_history)
