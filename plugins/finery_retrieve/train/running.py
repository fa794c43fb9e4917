"""Runs a trainer of sentence-transformers: checkpoints, resumption, progress and the curve.

Imports torch, so import it inside a function.
"""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler
from transformers import PrinterCallback, Trainer, TrainerCallback

from finery import Job, StepError, outside_key

MARK = "complete"
"""A file that is written last into a checkpoint."""
STATE = ("optimizer.pt", "scheduler.pt", "rng_state*", "trainer_state.json", "scaler.pt", MARK)
"""Files of a checkpoint that aren't part of the model."""
CURVE = ("loss", "learning_rate", "eval_loss")


class Kept(NamedTuple):
    """A finished training. curve: see `finery_trl.view.curves`. best: an optimizer step."""

    curve: list[dict[str, Any]]
    best: int

    def facts(self) -> dict[str, Any]:
        """For the `meta` of the model."""
        last = self.curve[-1]
        losses = {p["step"]: p["eval_loss"] for p in self.curve if "eval_loss" in p}
        facts = {"steps": last["step"], "best_step": self.best, "epochs": round(last["epoch"], 4)}
        return facts | ({"eval_loss": round(losses[self.best], 6)} if losses else {})


class Quiet:
    """Mixin for trainers of sentence-transformers: no model cards, which ask the hub."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model: Any = self.model  # type: ignore[attr-defined]
        model.save_pretrained(output_dir, create_model_card=False)


class Shuffled(DefaultBatchSampler):
    """Random batches that depend on the seed and the epoch alone.

    The library's own order also depends on the epochs before, which a resumed training lacks.
    """

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order: Any = torch.randperm(len(self.sampler), generator=generator).tolist()  # type: ignore[arg-type]
        for start in range(0, len(order), self.batch_size):
            yield order[start : start + self.batch_size]


def arguments(step: Any, job: Job, *, size: int, accumulated: int) -> dict[str, Any]:
    """The arguments that both configurations share. size: rows of a batch."""
    due = "steps" if step.eval_steps else "epoch"
    validates = step.validation is not None
    return {
        "output_dir": str(job.scratch / "checkpoints"),
        "seed": job.seed,
        "full_determinism": True,
        "num_train_epochs": step.epochs,
        "learning_rate": step.learning_rate,
        "lr_scheduler_type": step.lr_scheduler_type,
        "warmup_steps": step.warmup_ratio,
        "per_device_train_batch_size": size,
        "per_device_eval_batch_size": size,
        "gradient_accumulation_steps": accumulated,
        "save_strategy": due,
        "eval_strategy": due if validates else "no",
        "save_steps": step.eval_steps or 500,
        "eval_steps": step.eval_steps,
        "save_total_limit": 2,
        "metric_for_best_model": "eval_loss" if validates else None,
        "greater_is_better": False,
        "logging_steps": 1,  # for the curve
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
    }


def train(trainer: Trainer, job: Job) -> Kept:
    """Train from the last complete checkpoint on; write the best weights and the curve.

    The best weights have the lowest validation loss. Without validation, they are the last.
    """
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Report(job))
    folder = job.scratch / "checkpoints"
    last = _last_complete(folder)
    try:
        if last is None or not _is_over(last):
            if last is not None:
                job.log(f"continuing from optimizer step {_step_of(last)}")
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
    finally:
        torch.use_deterministic_algorithms(False)
    last = _last_complete(folder)
    assert last is not None  # the trainer saves after the last epoch
    state = _state_of(last)
    best = state["best_global_step"] or state["global_step"]
    shutil.copytree(
        folder / f"checkpoint-{best}", job.out,
        ignore=shutil.ignore_patterns(*STATE), dirs_exist_ok=True,
    )  # fmt: skip
    points: dict[int, dict[str, Any]] = {}
    for entry in state["log_history"]:
        if values := {name: entry[name] for name in CURVE if name in entry}:
            point = points.setdefault(entry["step"], {"step": entry["step"]})
            point.update(epoch=entry["epoch"], **values)
    curve = [points[step] for step in sorted(points)]
    (job.out / "curve.json").write_text(json.dumps(curve, indent=1) + "\n", encoding="utf-8")
    return Kept(curve, best)


def refuse_diverged(values: Any, learning_rate: float) -> None:
    """Raise `StepError` if what the trained model returns for a row isn't finite."""
    if not torch.as_tensor(values).isfinite().all():
        raise StepError(
            "the training diverged: what the trained model returns isn't finite",
            fix=f"lower learning_rate (now {learning_rate:g})",
        )


def _last_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint; others, which a kill left, are removed."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=_step_of)
    for checkpoint in checkpoints:
        if not (checkpoint / MARK).exists():
            shutil.rmtree(checkpoint)
    return next((path for path in reversed(checkpoints) if path.exists()), None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _state_of(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / "trainer_state.json").read_text("utf-8"))
    return state


def _is_over(checkpoint: Path) -> bool:
    state = _state_of(checkpoint)
    return bool(state["global_step"] >= state["max_steps"])


class _Report(TrainerCallback):
    """Reports to the job, marks checkpoints, and ends a training that diverges."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as complete."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARK).touch()

    @outside_key
    def on_log(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Report losses. Raises `StepError` if one is no longer a finite number."""
        self._job.progress(state.global_step, state.max_steps)
        logs = context["logs"]
        for name in CURVE:
            if name not in logs:
                continue
            if not math.isfinite(logs[name]):
                raise StepError(
                    f"the training diverged: {name} is {logs[name]} at optimizer step "
                    f"{state.global_step}",
                    fix=f"lower learning_rate (now {args.learning_rate:g})",
                )
            self._job.metric(name, logs[name], state.global_step)
