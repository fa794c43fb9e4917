"""Synthetic rows: a stronger model writes, answers and judges them.

In go rows and a model that is asked, out come rows, how each was generated, and what was rejected.
Public for other plugins: `finery_synth.generator`, the base class of step types whose rows a model
writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {
        "synth.answer": "finery_synth.steps.answer:Answer",
        "synth.from_docs": "finery_synth.steps.from_docs:FromDocs",
        "synth.instruct": "finery_synth.steps.instruct:Instruct",
        "synth.judge": "finery_synth.steps.judge:JudgeRows",
        "synth.paraphrase": "finery_synth.steps.paraphrase:Paraphrase",
        "synth.preferences": "finery_synth.steps.preferences:Preferences",
    }


@hookimpl
def finery_commands() -> Mapping[str, str]:
    """The command `finery synth`."""
    return {"synth": "finery_synth.command:command"}


@hookimpl
def finery_estimates(graph: Any, results: Any, steps: Sequence[str]) -> Sequence[Any]:
    """Calls, tokens and cost of steps that would have a model make rows."""
    from finery import generates

    if not any(generates(graph.nodes[name]) for name in steps):
        return []
    from finery_synth.estimate.calls import estimates

    return estimates(graph, results, steps)
