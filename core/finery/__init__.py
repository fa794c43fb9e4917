"""finery: a declarative, plugin-based build system for small fine-tuned language models."""

from finery.artifacts import Artifact, Bundle, Dataset, Metrics, Model
from finery.engine import Completion, Engine, Sampling
from finery.errors import DataError, FineryError, RequirementError, StepError
from finery.hooks import hookimpl
from finery.job import Job
from finery.step import Files, Settings, Step, setting, takes

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "Bundle",
    "Completion",
    "DataError",
    "Dataset",
    "Engine",
    "Files",
    "FineryError",
    "Job",
    "Metrics",
    "Model",
    "RequirementError",
    "Sampling",
    "Settings",
    "Step",
    "StepError",
    "hookimpl",
    "setting",
    "takes",
]
