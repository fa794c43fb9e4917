"""finery: a declarative, plugin-based build system for small fine-tuned language models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finery.advice import About, Estimate, Note
    from finery.artifacts import Artifact, Bundle, Dataset, Metrics, Model
    from finery.engine import Completion, Engine, Request, Sampling
    from finery.errors import (
        DataError,
        FineryError,
        RefusedError,
        RequirementError,
        StepError,
        UsageError,
    )
    from finery.hooks import hookimpl
    from finery.job import Job
    from finery.step import Files, OneFile, OptionalFiles, Settings, Step, inner, setting, takes
    from finery.usage import Budget, Price, Usage

__version__ = "0.1.0"

_HOME = {
    "About": "finery.advice",
    "Artifact": "finery.artifacts",
    "Budget": "finery.usage",
    "Bundle": "finery.artifacts",
    "Completion": "finery.engine",
    "DataError": "finery.errors",
    "Dataset": "finery.artifacts",
    "Engine": "finery.engine",
    "Estimate": "finery.advice",
    "Files": "finery.step",
    "FineryError": "finery.errors",
    "Job": "finery.job",
    "Metrics": "finery.artifacts",
    "Model": "finery.artifacts",
    "Note": "finery.advice",
    "OneFile": "finery.step",
    "OptionalFiles": "finery.step",
    "Price": "finery.usage",
    "RefusedError": "finery.errors",
    "Request": "finery.engine",
    "RequirementError": "finery.errors",
    "Sampling": "finery.engine",
    "Settings": "finery.step",
    "Step": "finery.step",
    "StepError": "finery.errors",
    "Usage": "finery.usage",
    "UsageError": "finery.errors",
    "hookimpl": "finery.hooks",
    "inner": "finery.step",
    "setting": "finery.step",
    "takes": "finery.step",
}
"""Name → the module it lives in, imported when the name is first used: commands start quicker."""

__all__ = [
    "About",
    "Artifact",
    "Budget",
    "Bundle",
    "Completion",
    "DataError",
    "Dataset",
    "Engine",
    "Estimate",
    "Files",
    "FineryError",
    "Job",
    "Metrics",
    "Model",
    "Note",
    "OneFile",
    "OptionalFiles",
    "Price",
    "RefusedError",
    "Request",
    "RequirementError",
    "Sampling",
    "Settings",
    "Step",
    "StepError",
    "Usage",
    "UsageError",
    "hookimpl",
    "inner",
    "setting",
    "takes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'finery' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
