"""Training with Unsloth: TRL's trainings, faster and in less memory, on a GPU.

What `finery_trl` takes comes in: its step types' settings, rows and a model. The same artifacts go
out. It changes how a model is loaded and which kernels run, and refuses what Unsloth would ignore.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "unsloth.dpo": "finery_unsloth.dpo:Dpo",
        "unsloth.sft": "finery_unsloth.sft:Sft",
    }
