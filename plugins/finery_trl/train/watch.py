"""Metrics of the task during a training, from an evaluator that tests the current model."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from finery import CachedEngine, Engine, Job, Metrics, Model
from finery.advanced import Budget
from finery.rows.files import PREDICTIONS

if TYPE_CHECKING:
    import torch

    from finery_trl.rows.tokens import Tokens
    from finery_trl.settings import Training


SIGNIFICANT = 0.05
"""p-value below which a watched metric has fallen."""


def watcher(
    step: "Training", tokens: "Tokens", dtype: "torch.dtype", job: Job
) -> Callable[[Any, int], dict[str, float]]:
    """(model, optimizer step) → the metrics of `step.watch`, which must be set."""
    evaluator = step.watch
    assert evaluator is not None

    def watch(model: Any, at: int) -> dict[str, float]:
        # Each of several processes answers all rows, and reads the files of its own evaluation.
        rank = os.environ.get("RANK", "0")
        watching = QuietJob(job.scratch / "watch" / f"{at}-{rank}")
        watching.live = live_engine(step, tokens, dtype, model, watching)
        metrics: Metrics = evaluator.run(watching)
        (scores,) = metrics.report().scores.values()
        return {metric: score.value for metric, score in scores.items()}

    return watch


def exploited(metric: str, history: Sequence[Mapping[str, Any]], job: Job) -> str | None:
    """Why the reward no longer stands for the watched metric, in a sentence; None if it does.

    The metric is significantly lower than at the best validation so far (or before the training),
    by a paired test on the same rows, and the mean reward of the steps since the last validation is
    higher than that of the steps up to the first one.
    """
    steps = [e["step"] for e in history if "watch" in e]
    rewards = [(e["step"], e["reward"]) for e in history if "reward" in e]
    first = [reward for step, reward in rewards if step <= steps[0]]
    last = [reward for step, reward in rewards if len(steps) > 1 and step > steps[-2]]
    if not last or not first or fmean(last) <= fmean(first):
        return None
    scores = {
        e["step"]: score
        for e in history
        if (score := e.get("watch", e.get("watch_start", {})).get(metric)) is not None
    }
    now = scores.pop(steps[-1], None)
    best = max(scores, key=lambda step: scores[step], default=None)
    if now is None or best is None or not _is_lower(job, best, steps[-1], metric):
        return None
    when = f"at step {best}" if best else "before the training"
    return (
        f"stopped at step {steps[-1]}: {metric} fell from {scores[best]:.3f} {when} to {now:.3f}, "
        f"which is significant, while the mean reward rose from {fmean(first):.3f} to "
        f"{fmean(last):.3f}: the model exploits the reward"
    )


def _is_lower(job: Job, before: int, after: int, metric: str) -> bool:
    """Whether a metric fell between two validations, by the predictions of both (p < 0.05)."""
    from finery_eval.predictions import difference_between, paired

    first, second = (Metrics(job.scratch / "watch" / f"{step}-0") for step in (before, after))
    if not all(side.file(PREDICTIONS).is_file() for side in (first, second)):
        return False
    pairs = paired([*first.predictions()], [*second.predictions()])
    fall = difference_between(pairs, metric, first.report(), second.report())
    return fall is not None and fall.value < 0 and fall.p_value < SIGNIFICANT


def live_engine(
    step: "Training", tokens: "Tokens", dtype: "torch.dtype", model: Any, job: Job
) -> Engine:
    """Answers with the model in training."""
    from finery_transformers.engine import LiveEngine

    return LiveEngine(step.model, job, trained=model, template=tokens.template, dtype=dtype)


class QuietJob(Job):
    """The job of an evaluator, which always uses the model in training.

    It reports nothing: the progress bar belongs to the training.
    """

    live: Engine

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        super().__init__(out=out, scratch=out, seed=0)

    def engine(self, model: Model, *, budget: Budget | None = None) -> CachedEngine:
        """The model in training."""
        return CachedEngine(self.live, self.records)

    def raw_engine(self, model: Model) -> Engine:
        """The model in training, without a cache."""
        return self.live
