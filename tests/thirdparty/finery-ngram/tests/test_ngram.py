"""The trainer and the engine keep the contracts."""

from pathlib import Path

from finery_ngram.steps import Train

from finery import Model
from finery.testing import EngineContract, StepContract, dataset, run_step

ROWS = [
    {"prompt": f"I lost my {thing} {when}", "completion": f"the {thing} is {when}"}
    for thing in ("card", "key", "phone")
    for when in ("today", "yesterday", "again")
]


class TestTrain(StepContract):
    """Killed in the middle, it goes on from its checkpoint."""

    def step(self, folder: Path) -> Train:
        return Train(
            rows=[dataset(folder / "rows", ROWS)], validation=dataset(folder / "held", ROWS[:3]),
            save_every=2, report_every=3,
        )  # fmt: skip


class TestEngine(EngineContract):
    """Answers with the model that the trainer makes."""

    def model(self, folder: Path) -> Model:
        step = Train(rows=[dataset(folder / "rows", ROWS)])
        model: Model = run_step(step, folder / "job")
        return model
