"""Retention: did a model lose general ability while it was trained?

Input: models, base first. Output: metrics: how many procedural tasks each model solves, how likely
it finds general text, and for each tuned model whether it forgot, in words.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {"eval.retention": "finery_retention.retention:Retention"}
