"""The step type keeps the contract."""

from pathlib import Path

from finery_probe.steps import MinLength

from finery.testing import StepContract, dataset

ROWS = [{"prompt": "short"}, {"prompt": "a prompt that is long enough to be kept"}]


class TestMinLength(StepContract):
    """Some rows are kept, and some aren't."""

    def step(self, folder: Path) -> MinLength:
        return MinLength(rows=dataset(folder / "rows", ROWS))
