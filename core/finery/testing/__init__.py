"""The test kit for plugin authors.

`run_step` runs a single step without recipe, store or processes. The contract classes are pytest
suites to inherit: an author says how to make a step, an engine or an executor, and gets the tests
that each of them must pass. Input: instances of the author's classes. Output: artifacts, events
and failed assertions.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finery.testing.engines import EngineContract
    from finery.testing.executors import ExecutorContract
    from finery.testing.job import TestJob, dataset, examine, run_step
    from finery.testing.steps import StepContract
    from finery.testing.tables import table_model

_HOME = {
    "EngineContract": "finery.testing.engines",
    "ExecutorContract": "finery.testing.executors",
    "StepContract": "finery.testing.steps",
    "TestJob": "finery.testing.job",
    "dataset": "finery.testing.job",
    "examine": "finery.testing.job",
    "run_step": "finery.testing.job",
    "table_model": "finery.testing.tables",
}
"""Name → the module that defines it. The worker of a contract imports only what it needs."""

__all__ = [
    "EngineContract",
    "ExecutorContract",
    "StepContract",
    "TestJob",
    "dataset",
    "examine",
    "run_step",
    "table_model",
]

if "pytest" in sys.modules:  # so that failed assertions of the contracts show their values
    import pytest

    pytest.register_assert_rewrite(*{_HOME[name] for name in __all__ if "Contract" in name})


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'finery.testing' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
