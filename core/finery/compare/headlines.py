"""The headline metrics of a run, straight from the store's blobs."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from finery.artifact.kinds import Metrics
from finery.artifact.manifest import Manifest
from finery.builder.runs.reading import Run
from finery.rows.files.metrics import METRICS
from finery.store.database import Store


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
