"""Learning from preferences: what DPO and KTO share."""

from typing import Literal

from finery import Model, setting, takes
from finery_trl.settings import MOST_EPOCHS
from finery_trl.steps.training import TrlTraining


class Preference(TrlTraining, learns="preferences"):
    """Train on better and worse answers."""

    model: Model = takes(
        role="base",
        help="The model to train, which is the reference too: usually the one that `trl.sft` made.",
    )
    adapter: Literal["new", "continue"] = setting(
        "continue",
        help="Where `model` is an adapter itself: go on training it, with its start as the "
        "reference (then `lora` is left out: it keeps its own shape), or merge it, take the "
        "merged model as the reference and put a new adapter on top.",
    )
    beta: float = setting(
        0.1, gt=0, help="How strongly the trained model is held to the reference; lower: freer."
    )
    epochs: float = setting(1, gt=0, le=MOST_EPOCHS, help="Passes over the rows.")
    learning_rate: float = setting(
        5e-6, gt=0, help="Peak learning rate: far lower than in supervised fine-tuning."
    )

    @property
    def compares(self) -> bool:
        """True: the reference is the model before the training."""
        return True
