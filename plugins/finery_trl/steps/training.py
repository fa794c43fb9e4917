"""A training with TRL: adds `run` to the settings of `finery_trl.settings`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finery import Job, Model, Preflight, Proof
from finery_trl.settings import Training
from finery_trl.view.live import METRICS

if TYPE_CHECKING:
    import torch

    from finery_trl.model.loading import Prepared


class TrainingPreflight(Preflight["Training"]):
    """Verifies rows in the same way as the training itself."""

    def packages(self) -> Mapping[str, str]:
        """What trains, quantises and reports the curves."""
        step = self.step
        quantises = ["bitsandbytes"] if step.needs_bitsandbytes else []
        return {
            **step.installs,
            **dict.fromkeys(quantises, "finery[train]"),
            **{name: name for name in step.report_to},
        }

    def prove(self, job: Job, samples: int) -> list[Proof]:
        """A `Proof` for each data set."""
        from finery_trl.preflight import prove

        return prove(self.step, job, samples)


class TrlTraining(Training, preflight=TrainingPreflight, metrics=METRICS):
    """Base of all step types that train. They implement `read` and `trainer`, see `Training`."""

    def run(self, job: Job) -> Model:
        """Verify the rows and train; an adapter or a whole model, with its tokenizer and curve."""
        from finery_trl.train.run import run

        return run(self, job)

    def key_code(self) -> list[Any]:
        """The code that watches and that starts several processes, if the step uses it."""
        code: list[Any] = []
        if self.watch is not None:
            from finery_trl.train.watch import watcher

            code.append(watcher)
        if self.launch is not None:
            from finery_trl.train.launch import launch

            code.append(launch)
        return code

    def prepare(self, dtype: "torch.dtype", longest: int, job: Job) -> "Prepared":
        """The model as loaded by `Prepared.of`; other libraries override this."""
        from finery_trl.model.loading import Prepared

        return Prepared.of(self, dtype, longest, job)
