"""Contracts of step types whose author ships none, for pytest in the environment of a plugin.

Only a step type whose required settings are data sets can be made without its author. What can't
be made is a skipped test with the reason.
"""

import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from finery.artifact.kinds import Dataset
from finery.cli.catalog.probe import entries_of
from finery.errors import FineryError, PluginError
from finery.plugin.manager import load_plugins
from finery.recipe.schema import step_schema
from finery.step.inspect import inputs_of
from finery.step.step import Step
from finery.testing.job import dataset, run_step
from finery.testing.steps import StepContract

ROWS = [
    {"prompt": f"What is the answer to question {number}?", "completion": f"It is {2 * number}."}
    for number in range(1, 9)
]


def contracts_of(distribution: str) -> dict[str, Any]:
    """Name of a test → the contract of a step type, or a skipped test."""
    import pytest

    plugins, names = load_plugins(), {entry.name for entry in entries_of(distribution)}
    tests: dict[str, Any] = {}
    for name, (_, owner) in plugins.step_types.items():
        if owner.name not in names:
            continue
        label, reason = re.sub(r"\W", "_", name), "can't be loaded"
        with suppress(PluginError):
            cls = plugins.step_type(name)
            reason = reason_against(cls)
        if reason:
            skip = pytest.mark.skip(reason=f"{name} {reason}")
            tests[f"test_{label}"] = skip(lambda: None)
        else:
            tests[f"Test_{label}"] = type(f"Test_{label}", (StepContract,), {"step": step_of(cls)})
    return tests


def reason_against(cls: type[Step]) -> str:
    """Why a step type can't be tested without its author; empty if it can."""
    inputs = inputs_of(cls)
    for name in step_schema(cls)["required"]:
        if name != "use" and (name not in inputs or inputs[name].kind is not Dataset):
            return f"needs `{name}`, which only its author can give"
    with tempfile.TemporaryDirectory() as folder:
        try:
            run_step(step_of(cls)(None, Path(folder)), Path(folder, "job"))
        except FineryError as error:
            return f"doesn't take the rows of the catalogue: {error.what}"
        except Exception:  # the contract will say so
            pass
    return ""


def step_of(cls: type[Step]) -> Callable[[object, Path], Step]:
    """The method `step` of a contract: all required inputs have the same rows."""
    required = set(step_schema(cls)["required"])

    def step(self: object, folder: Path) -> Step:
        given = {}
        for name, accepts in inputs_of(cls).items():
            if name in required:
                rows = dataset(folder / name, ROWS)
                given[name] = [rows] if accepts.many else rows
        return cls(**given)

    return step
