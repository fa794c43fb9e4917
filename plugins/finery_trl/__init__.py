"""Training with TRL.

For trainers and models of other plugins: `finery_trl.view.model:CurveView` shows any model that
holds a `curve.json` (see `finery_trl.view.curves`), `finery_trl.view.live:METRICS` shows what is
measured while it trains.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "trl.dpo": "finery_trl.steps.dpo:Dpo",
        "trl.kto": "finery_trl.steps.kto:Kto",
        "trl.sft": "finery_trl.steps.sft:Sft",
    }


@hookimpl
def finery_views() -> dict[str, str]:
    """What models look like, with their curves."""
    return {"Model": "finery_trl.view.model:CurveView"}


@hookimpl
def finery_estimates(graph: Any, results: Any, steps: Sequence[str]) -> Sequence[Any]:
    """Memory and time of trainings that would run."""
    if not any(graph.nodes[name].use.startswith("trl.") for name in steps):
        return []
    from finery_trl.estimate.forecast import estimates

    return estimates(graph, results, steps)


@hookimpl
def finery_worker_environment(alone: bool) -> Mapping[str, str]:
    """How long OpenMP's threads spin, in every worker: steps of all types share the cores."""
    from finery_trl.train.threads import thread_environment

    return thread_environment(alone=alone)
