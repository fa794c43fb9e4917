"""Exported files among judged models, next to the models that they were exported from."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finery import Metrics, Model

SOURCE = "exported_from"
"""The fact in `meta` of an exported file that has the digest of the model it was made of."""
SPEED = "tokens_per_second"
"""The entry of `runtime`: of a file, what its export measured; of `Metrics`, the same by model."""

Compare = Callable[[Mapping[str, Sequence[bool]]], list[dict[str, Any]]]
"""Compares models with the first of them, see `evaluator.compare`."""


def compared_exports(
    models: Sequence[Model], correct: Mapping[str, Sequence[bool]], compare: Compare
) -> list[dict[str, Any]]:
    """Facts about each exported file, compared with the model that it was exported from.

    correct: model → whether each answer is right. The comparison is there if that model is also
    among `models`.
    """
    names = {model.digest: model.name for model in models if model.digest}
    found = []
    for model in models:
        if SOURCE not in model.meta:
            continue
        facts = {"model": model.name, "file": model.meta["file"], "size": model.meta["size"]}
        trained = names.get(model.meta[SOURCE])
        if trained is not None:
            (comparison,) = compare({trained: correct[trained], model.name: correct[model.name]})
            facts |= comparison
        found.append(facts)
    return found


def is_worse(export: Mapping[str, Any]) -> bool:
    """Whether a file is significantly worse: the interval of the difference is below 0."""
    return "interval" in export and export["interval"][1] < 0


def with_speeds(metrics: Metrics, models: Sequence[Model]) -> Metrics:
    """The metrics with the measured speeds of files, which aren't part of their identity."""
    speeds = {model.name: model.runtime[SPEED] for model in models if SPEED in model.runtime}
    if speeds:
        metrics.runtime[SPEED] = speeds
    return metrics
