"""The public names of `finery`, each on a line with the module that defines it."""

from finery.artifact.kinds import Artifact as Artifact
from finery.artifact.kinds import Bundle as Bundle
from finery.artifact.kinds import Dataset as Dataset
from finery.artifact.kinds import Index as Index
from finery.artifact.kinds import Metrics as Metrics
from finery.artifact.kinds import Model as Model
from finery.errors import DataError as DataError
from finery.errors import FineryError as FineryError
from finery.errors import PluginError as PluginError
from finery.errors import RequirementError as RequirementError
from finery.errors import StepError as StepError
from finery.errors import UsageError as UsageError
from finery.fields import File as File
from finery.fields import Files as Files
from finery.fields import Settings as Settings
from finery.fields import nested_step as nested_step
from finery.fields import setting as setting
from finery.fields import takes as takes
from finery.inference.cache import CachedEngine as CachedEngine
from finery.inference.engine import Completion as Completion
from finery.inference.engine import Engine as Engine
from finery.inference.engine import EngineJob as EngineJob
from finery.inference.engine import Request as Request
from finery.inference.engine import Sampling as Sampling
from finery.key import Key as Key
from finery.plugin.forecasts import Inputs as Inputs
from finery.plugin.hookspecs import hookimpl as hookimpl
from finery.step.forecast import Count as Count
from finery.step.forecast import Estimate as Estimate
from finery.step.forecast import Forecast as Forecast
from finery.step.forecast import Note as Note
from finery.step.forecast import Requests as Requests
from finery.step.job import Job as Job
from finery.step.look import Known as Known
from finery.step.look import Look as Look
from finery.step.look import Promise as Promise
from finery.step.look import Unknown as Unknown
from finery.step.resources import Rehearsal as Rehearsal
from finery.step.resources import Resources as Resources
from finery.step.step import Step as Step
from finery.util.references import outside_key as outside_key

__all__: list[str]
API: str
__version__: str
