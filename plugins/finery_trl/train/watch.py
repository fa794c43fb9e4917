"""The task's own metric during a training: any evaluator, asking the model as it is."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import (
    Budget,
    CachedEngine,
    Engine,
    FineryError,
    Job,
    MemoryRecords,
    Metrics,
    Model,
    Preflight,
    interface,
)
from finery_trl.rows.tokens import Tokens

if TYPE_CHECKING:
    import torch

    from finery_trl.settings import Training


def watcher(
    step: "Training", tokens: Tokens, dtype: "torch.dtype", job: Job
) -> Callable[[Any, int], dict[str, float]] | None:
    """(model, optimizer step) → the metrics of `step.watch`; None where nothing is watched."""
    if step.watch is None:
        return None
    from finery_transformers.engine import LiveEngine

    evaluator = step.watch

    def watch(model: Any, at: int) -> dict[str, float]:
        asked = _Job(job.scratch / "watch" / str(at))
        asked.asked = LiveEngine(
            step.model,
            asked,
            trained=model,
            tokenizer=tokens.tokenizer,
            arguments=tokens.arguments,
            dtype=dtype,
        )
        metrics: Metrics = evaluator.run(asked)
        (scores,) = metrics.report()["scores"].values()
        return dict(scores)

    return watch


def check_watched(step: "Training", job: Job) -> None:
    """Raise what the watched evaluator would raise at the first validation for its rows."""
    if step.watch is None:
        return
    try:
        preflight = interface(step.watch, Preflight)
        if preflight is not None:
            preflight.check_inputs(job)
    except FineryError as error:
        error.where = error.where or "watch.rows"
        raise


class _Job(Job):
    """A job of its own for the evaluator, whose every model is the one in training."""

    asked: Engine

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        super().__init__(
            out=out,
            scratch=out,
            seed=0,
            report=lambda event: None,  # the bar is the training's
            records=MemoryRecords(),
            find_engine=lambda model: (Engine, ""),
            secrets={},
        )

    def engine(self, model: Model, *, budget: Budget | None = None) -> CachedEngine:
        """The model in training."""
        return CachedEngine(self.asked, self.records, "")

    def raw_engine(self, model: Model) -> Engine:
        """The same."""
        return self.asked
