"""The base of the step types that learn from preferences, DPO and KTO."""

from typing import Literal

from finery import Model, setting, takes
from finery_trl.settings import MOST_EPOCHS
from finery_trl.steps.training import TrlTraining


class Preference(TrlTraining, learns="preferences"):
    """Train on better and worse answers."""

    model: Model = takes(
        role="base",
        help="The model to train, usually the output of `trl.sft`. It is also the reference.",
    )
    adapter: Literal["new", "continue"] = setting(
        "continue",
        help="If `model` is itself an adapter: `continue` trains it further, with its initial "
        "state as the reference (omit `lora`, since the adapter keeps its shape); `new` merges it, "
        "uses the merged model as the reference and trains a new adapter on top.",
    )
    beta: float = setting(
        0.1,
        gt=0,
        help="How strongly the model is held to the reference; lower values allow more change.",
    )
    epochs: float = setting(1, gt=0, le=MOST_EPOCHS, help="Passes over the rows.")
    learning_rate: float = setting(
        5e-6, gt=0, help="Peak learning rate, far lower than in supervised fine-tuning."
    )

    @property
    def compares(self) -> bool:
        """True: the reference is the model before the training."""
        return True
