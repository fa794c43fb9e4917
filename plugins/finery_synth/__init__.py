"""Synthetic rows: a stronger model writes, answers and judges them.

The input is rows and a model. The output is rows, how each was generated, and what was rejected.
`generator` is the contract of step types that have a model write rows, and `generation` the loop
that runs them. Public for other plugins: `finery_synth.generator`; `.judges`, which reads verdicts
of judges; `.prompts`, their templates; `.asking`, which counts answers; and `.estimate`, what
requests cost.
"""

from collections.abc import Mapping

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
