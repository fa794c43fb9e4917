"""Training with Unsloth."""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "unsloth.dpo": "finery_unsloth.dpo:Dpo",
        "unsloth.sft": "finery_unsloth.sft:Sft",
    }
