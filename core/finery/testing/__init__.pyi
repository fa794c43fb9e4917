"""The names of `finery.testing`, each on a line with the module that defines it."""

from finery.testing.engines import EngineContract as EngineContract
from finery.testing.executors import ExecutorContract as ExecutorContract
from finery.testing.job import TestJob as TestJob
from finery.testing.job import dataset as dataset
from finery.testing.job import examine as examine
from finery.testing.job import run_step as run_step
from finery.testing.job import table_model as table_model
from finery.testing.steps import StepContract as StepContract

__all__: list[str]
