"""Metrics of the task during a training, from an evaluator that tests the current model."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import (
    Budget,
    CachedEngine,
    Engine,
    FineryError,
    Job,
    Metrics,
    Model,
    Preflight,
    interface,
    outside_key,
)

if TYPE_CHECKING:
    import torch

    from finery_trl.rows.tokens import Tokens
    from finery_trl.settings import Training


@outside_key
def check_watched(step: "Training", job: Job) -> None:
    """Raise the errors that the watched evaluator would raise at the first validation."""
    if step.watch is None:
        return
    try:
        preflight = interface(step.watch, Preflight)
        if preflight is not None:
            preflight.check_inputs(job)
    except FineryError as error:
        error.where = error.where or "watch.rows"
        raise


def watcher(
    step: "Training", tokens: "Tokens", dtype: "torch.dtype", job: Job
) -> Callable[[Any, int], dict[str, float]]:
    """(model, optimizer step) → the metrics of `step.watch`, which must be set."""
    from finery_transformers.engine import LiveEngine

    evaluator = step.watch
    assert evaluator is not None

    def watch(model: Any, at: int) -> dict[str, float]:
        # Each of several processes answers all rows, and reads the files of its own evaluation.
        rank = os.environ.get("RANK", "0")
        watching = QuietJob(job.scratch / "watch" / f"{at}-{rank}")
        watching.live = LiveEngine(
            step.model,
            watching,
            trained=model,
            tokenizer=tokens.tokenizer,
            arguments=tokens.arguments,
            dtype=dtype,
        )
        metrics: Metrics = evaluator.run(watching)
        (scores,) = metrics.report()["scores"].values()
        return dict(scores)

    return watch


@outside_key
def live_engine(
    step: "Training", tokens: "Tokens", dtype: "torch.dtype", model: Any, job: Job
) -> Engine:
    """Answers with the model in training."""
    from finery_transformers.engine import LiveEngine

    return LiveEngine(
        step.model,
        job,
        trained=model,
        tokenizer=tokens.tokenizer,
        arguments=tokens.arguments,
        dtype=dtype,
    )


class QuietJob(Job):
    """The job of an evaluator, which always uses the model in training.

    It reports nothing: the progress bar belongs to the training.
    """

    live: Engine

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        super().__init__(
            out=out,
            scratch=out,
            seed=0,
        )

    def engine(self, model: Model, *, budget: Budget | None = None) -> CachedEngine:
        """The model in training."""
        return CachedEngine(self.live, self.records, "")

    def raw_engine(self, model: Model) -> Engine:
        """The model in training, without a cache."""
        return self.live
