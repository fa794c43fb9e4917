"""What both trainers of sentence-transformers share.

Imports torch, so import it inside a function.
"""

import shutil
from collections.abc import Iterator
from typing import Any

import torch
from sentence_transformers.base.sampler import DefaultBatchSampler
from transformers import Trainer

from finery import Job, StepError
from finery_trl.train import resuming


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
        "logging_steps": 1,  # for the curve
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "disable_tqdm": True,
        "report_to": "none",
    }


def train(trainer: Trainer, job: Job) -> resuming.Ended:
    """Train, and write the best weights and the curve."""
    ended = resuming.train(trainer, job)
    ignored = shutil.ignore_patterns(*resuming.STATE)
    shutil.copytree(ended.checkpoint, job.out, ignore=ignored, dirs_exist_ok=True)
    ended.write_curve(job.out)
    return ended


def refuse_diverged(values: Any, learning_rate: float) -> None:
    """Raise `StepError` if what the trained model returns for a row isn't finite."""
    if not torch.as_tensor(values).isfinite().all():
        raise StepError(
            "the training diverged: what the trained model returns isn't finite",
            fix=f"lower learning_rate (now {learning_rate:g})",
        )
