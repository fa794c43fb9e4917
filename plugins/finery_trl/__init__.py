"""Training with TRL: supervised fine-tuning, DPO and KTO, of adapters or whole models.

Rows and a model come in. A trained model with its tokenizer and its curve goes out; before that,
estimates of memory and time. Public for other plugins are `finery_trl.settings`, `.steps`,
`.model`, `.preflight` and `.view` with the modules in them, and nothing else.

For trainers and models of other plugins: `finery_trl.view.model:CurveView` shows any model that
holds a `curve.json` (see `finery_trl.view.curves`), `finery_trl.view.live:METRICS` shows what is
measured while it trains.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finery import hookimpl

if TYPE_CHECKING:
    from finery import Estimate, Graph, Results


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
def finery_estimates(
    graph: "Graph", results: "Results", steps: Sequence[str]
) -> "Sequence[Estimate]":
    """Memory and time of the trainings among the steps that would run."""
    from finery import trains

    if not any(trains(graph.nodes[name]) for name in steps):
        return []
    from finery_trl.estimate.forecast import estimates

    return estimates(graph, results, steps)


@hookimpl
def finery_worker_environment(alone: bool) -> Mapping[str, str]:
    """How long OpenMP's threads spin, in every worker: steps of all types share the cores."""
    from finery_trl.train.threads import thread_environment

    return thread_environment(alone=alone)
