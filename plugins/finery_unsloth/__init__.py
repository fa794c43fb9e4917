"""Training with Unsloth: TRL's trainings, faster and in less memory, on a GPU.

Input and output are those of `finery_trl`: settings, rows and a model, and the same artifacts. Only
the loading of the model and the kernels differ. Settings that Unsloth would ignore are refused.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "unsloth.dpo": "finery_unsloth.steps:Dpo",
        "unsloth.sft": "finery_unsloth.steps:Sft",
    }
