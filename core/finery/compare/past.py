"""The runs of a recipe: the results that steps had in them, and their headline metrics."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from finery.artifact.kinds import Metrics
from finery.artifact.manifest import Manifest, Result
from finery.builder.runs import Run, find_run
from finery.errors import UsageError
from finery.recipe.graph import Graph
from finery.rows.files import METRICS
from finery.store.database import Store


def result_in(graph: Graph, store: Store, step: str, word: str) -> Result:
    """A step's result in a run. Raises `UsageError` where the store doesn't have it."""
    run = find_run(store.root, graph.recipe, word)
    record = run.steps.get(step)
    if record is None or not record.key:
        why = "it didn't build this step"
        if record is not None:
            recorded = record.state in ("cached", "ran")
            why = (
                "an earlier version of finery recorded it" if recorded else f"it was {record.state}"
            )
        raise UsageError(
            f"run {run.id} has no result of '{step}': {why}",
            where="--run",
            fix="see finery runs for what it built",
        )
    result = store.lookup(record.key)
    if result is None:
        raise UsageError(
            f"the outputs of '{step}' in run {run.id} are no longer in the store",
            where="--run",
            fix="build that revision of the recipe again",
        )
    return result


class Headline(NamedTuple):
    """The first metric of each model that a step judged. is_cleaned: its files are gone."""

    metric: str
    values: Mapping[str, float]
    is_cleaned: bool = False


def headlines(store: Store, run: Run) -> dict[str, Headline]:
    """Step → headline, for the evaluators that a run built or found built."""
    found = {}
    for step in run.steps.values():
        result = store.finished(step.key) if step.key else None
        for manifest in result.outputs.values() if result else ():
            if manifest.kind == Metrics.kind:
                found[step.name] = _headline(store, manifest)
    return found


def _headline(store: Store, manifest: Manifest) -> Headline:
    try:
        digest, _ = manifest.files[METRICS]
        report: dict[str, Any] = json.loads(store.blob(digest).read_bytes())
    except (KeyError, OSError, ValueError):
        return Headline("", {}, is_cleaned=True)
    scores: Mapping[str, Mapping[str, float]] = report["scores"]
    metric = next((name for of in scores.values() for name in of), "")
    return Headline(metric, {m: of[metric] for m, of in scores.items() if metric in of})
