"""The names of `finery.advanced`, each on a line with the module that defines it."""

from finery.artifact.manifest import Manifest as Manifest
from finery.builder.code.steps import code_digest as code_digest
from finery.builder.project import Project as Project
from finery.errors import RefusedError as RefusedError
from finery.execute.environment import worker_environment as worker_environment
from finery.execute.executor import Executor as Executor
from finery.execute.executor import Task as Task
from finery.execute.executor import TaskEvent as TaskEvent
from finery.execute.gpus import cpu_count as cpu_count
from finery.execute.worker import run_task as run_task
from finery.inference.budget import Budget as Budget
from finery.inference.budget import Price as Price
from finery.inference.budget import Usage as Usage
from finery.inference.types import Answer as Answer
from finery.inference.types import Batch as Batch
from finery.plugin.discovery import load_source as load_source
from finery.plugin.discovery import loaded_files as loaded_files
from finery.plugin.forecasts import Forecasts as Forecasts
from finery.plugin.history import Past as Past
from finery.plugin.history import Results as Results
from finery.plugin.manager import load_plugins as load_plugins
from finery.plugin.notes import About as About
from finery.preflight.report import Proof as Proof
from finery.preflight.report import ProofBuilder as ProofBuilder
from finery.preflight.report import SamplePiece as SamplePiece
from finery.recipe.graph import Graph as Graph
from finery.recipe.graph import Node as Node
from finery.recipe.graph import Source as Source
from finery.recipe.matrix.sample import SearchRange as SearchRange
from finery.recipe.validate import raise_all as raise_all
from finery.step.forecast import value_of as value_of
from finery.util.files import check_plain as check_plain
from finery.util.installed import locked_versions as locked_versions
from finery.util.paths import linked as linked
from finery.util.paths import shown as shown

__all__: list[str]
