"""Training with TRL."""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {"trl.sft": "finery_trl.sft:Sft"}
