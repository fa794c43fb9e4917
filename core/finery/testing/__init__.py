"""The test kit for plugin authors.

`run_step` runs one step by itself, without recipe, store or processes. The contract classes are
pytest suites to inherit: an author says how to make a step, an engine or an executor, and gets the
tests that every one must pass. In go instances of the author's classes; out come outputs, events
and failed assertions.
"""

import sys

if "pytest" in sys.modules:  # so that failed assertions of the contracts show their values
    import pytest

    pytest.register_assert_rewrite(
        "finery.testing.engines", "finery.testing.executors", "finery.testing.steps"
    )

from finery.testing.engines import EngineContract
from finery.testing.executors import ExecutorContract
from finery.testing.job import TestJob, dataset, run_step
from finery.testing.steps import StepContract
from finery.testing.tables import table_model

__all__ = [
    "EngineContract",
    "ExecutorContract",
    "StepContract",
    "TestJob",
    "dataset",
    "run_step",
    "table_model",
]
