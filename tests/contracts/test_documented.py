"""The executor, engine, trainer and evaluator of the pages on plugins pass the contracts."""

import os
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from finery import Model, Step
from finery.advanced import Executor
from finery.testing import (
    EngineContract,
    ExecutorContract,
    StepContract,
    dataset,
    run_step,
    table_model,
)

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGES = [HOWTO / "plugins-engines.md", HOWTO / "plugins-models.md"]
ROWS = [{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(5)]


@pytest.fixture(scope="module", autouse=True)
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The pages' Python files, importable here and in processes that are started."""
    folder, before = tmp_path_factory.mktemp("shown"), os.environ.get("PYTHONPATH")
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, code in re.findall(r"^`(\w+\.py)`:\n\n```python\n(.*?)```", text, re.M | re.S):
        (folder / name).write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [before])])
    yield
    sys.path.remove(str(folder))
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def memory() -> Any:
    """The page's plugin file."""
    return import_module("memory")


class TestExecutor(ExecutorContract):
    """one-by-one."""

    def executor(self, jobs: int | None) -> Executor:
        executor: Executor = memory().OneByOne(jobs)
        return executor


class TestTrain(StepContract):
    """memory.train."""

    def step(self, folder: Path) -> Step:
        step: Step = memory().Train(rows=[dataset(folder / "rows", ROWS)])
        return step


class TestBrevity(StepContract):
    """phrases.brevity."""

    def step(self, folder: Path) -> Step:
        models = [table_model(folder / name, {}, name) for name in ("short", "a much longer one")]
        rows = dataset(folder / "rows", ROWS)
        step: Step = import_module("phrases").Brevity(models=models, rows=rows)
        return step


class TestEngine(EngineContract):
    """memory."""

    @pytest.fixture(autouse=True)
    def at(self) -> None:
        """Its class, which no installed plugin provides."""
        type(self).engine = memory().MemoryEngine

    def model(self, folder: Path) -> Model:
        step = memory().Train(rows=[dataset(folder / "rows", ROWS)])
        model: Model = run_step(step, folder / "job")
        return model
