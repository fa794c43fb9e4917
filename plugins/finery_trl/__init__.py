"""Training with TRL."""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "trl.dpo": "finery_trl.dpo:Dpo",
        "trl.kto": "finery_trl.kto:Kto",
        "trl.sft": "finery_trl.sft:Sft",
    }
