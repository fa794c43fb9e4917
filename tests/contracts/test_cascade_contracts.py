"""The step and the engine of cascades keep the contracts."""

from pathlib import Path

from finery import Model, Step
from finery.testing import EngineContract, StepContract, dataset, run_step, table_model
from finery_baseline.steps import Linear
from finery_cascade.model import CascadeModel

ROWS = [
    {"prompt": f"{text} {number}", "completion": label}
    for number in range(4)
    for text, label in (("late again", "time"), ("not here", "place"))
]


def cascade(folder: Path) -> CascadeModel:
    small = run_step(Linear(rows=dataset(folder / "train", ROWS)), folder / "small")
    last = table_model(folder / "last", default="no idea")
    small.ref, last.ref = "small", "last"
    rows = dataset(folder / "rows", ROWS)
    return CascadeModel(models=[small, last], calibrate=rows, risk=0.5, confidence=0.6)


class TestCascade(StepContract):
    """cascade.model."""

    without_effect = {"max_tokens": "a classifier writes no tokens, and the last isn't asked"}

    def step(self, folder: Path) -> Step:
        return cascade(folder)


class TestCascadeEngine(EngineContract):
    """The engine of `cascade`."""

    large_bytes = 100_000

    def model(self, folder: Path) -> Model:
        model: Model = run_step(cascade(folder), folder / "model")
        return model
