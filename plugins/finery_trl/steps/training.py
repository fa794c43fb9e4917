"""A training with TRL: adds `run` to the settings of `finery_trl.settings`."""

from typing import TYPE_CHECKING

from finery import Job, Model
from finery_trl.settings import Training

if TYPE_CHECKING:
    import torch

    from finery_trl.model.loading import Prepared


class TrlTraining(Training):
    """Base of all step types that train. They implement `read` and `trainer`, see `Training`."""

    def run(self, job: Job) -> Model:
        """Verify the rows and train; an adapter or a whole model, with its tokenizer and curve."""
        from finery_trl.train.run import run

        return run(self, job)

    def prepare(self, dtype: "torch.dtype", longest: int, job: Job) -> "Prepared":
        """The model as loaded by `Prepared.of`; other libraries override this."""
        from finery_trl.model.loading import Prepared

        return Prepared.of(self, dtype, longest, job)
