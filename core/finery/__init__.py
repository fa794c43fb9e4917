"""finery: a declarative, plugin-based build system for small fine-tuned language models.

This is what plugins may import, beside the row logic in `finery.rows` and the test kit in
`finery.testing`. Everything else under `finery` may move from one version to the next.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finery.artifact.kinds import Artifact, Bundle, Dataset, Metrics, Model
    from finery.artifact.manifest import Manifest
    from finery.build.project import open_graph, open_store, result_of
    from finery.cli.console import counted, print_json
    from finery.cli.options import json_option, recipe_option, set_option
    from finery.errors import (
        DataError,
        FineryError,
        PluginError,
        RefusedError,
        RequirementError,
        StepError,
        UsageError,
        error_from_dict,
    )
    from finery.fields import Files, OneFile, OptionalFiles, Settings, nested_step, setting, takes
    from finery.inference.budget import CHARACTERS_A_TOKEN, Budget, Price, Usage, prompt_tokens
    from finery.inference.cache import CachedEngine
    from finery.inference.engine import Engine
    from finery.inference.records import MemoryRecords, formats_of, sampling_of
    from finery.inference.types import Answer, Batch, Completion, Request, Sampling
    from finery.plugin.history import Past, Results
    from finery.plugin.hookspecs import hookimpl, observes
    from finery.plugin.manager import load_plugins
    from finery.plugin.notes import About, Estimate, Note
    from finery.preflight.report import NAMED, Piece, Proof, Sample, Tally, some_of
    from finery.recipe.files import find_files
    from finery.recipe.graph import (
        Graph,
        Node,
        Source,
        evaluates,
        generates,
        row_sources,
        sources_of,
        trains,
    )
    from finery.recipe.lock import Lock
    from finery.recipe.validate import raise_all
    from finery.step.inspect import FILE_MODULE, files_of
    from finery.step.interfaces import (
        Count,
        Forecast,
        Pinned,
        Preflight,
        Traceable,
        floating_name,
        interface,
    )
    from finery.step.job import Job
    from finery.step.step import Step
    from finery.store.database import Store
    from finery.util.installed import version_of
    from finery.util.machine import cpu_count
    from finery.util.paths import shown
    from finery.util.references import load_reference
    from finery.util.text import did_you_mean, nearest

__version__ = "0.1.0"

_HOME = {
    "About": "finery.plugin.notes",
    "Answer": "finery.inference.types",
    "Artifact": "finery.artifact.kinds",
    "Batch": "finery.inference.types",
    "Budget": "finery.inference.budget",
    "Bundle": "finery.artifact.kinds",
    "CHARACTERS_A_TOKEN": "finery.inference.budget",
    "CachedEngine": "finery.inference.cache",
    "Completion": "finery.inference.types",
    "Count": "finery.step.interfaces",
    "DataError": "finery.errors",
    "Dataset": "finery.artifact.kinds",
    "Engine": "finery.inference.engine",
    "Estimate": "finery.plugin.notes",
    "FILE_MODULE": "finery.step.inspect",
    "Files": "finery.fields",
    "FineryError": "finery.errors",
    "Forecast": "finery.step.interfaces",
    "Graph": "finery.recipe.graph",
    "Job": "finery.step.job",
    "Lock": "finery.recipe.lock",
    "Manifest": "finery.artifact.manifest",
    "MemoryRecords": "finery.inference.records",
    "Metrics": "finery.artifact.kinds",
    "Model": "finery.artifact.kinds",
    "NAMED": "finery.preflight.report",
    "Node": "finery.recipe.graph",
    "Note": "finery.plugin.notes",
    "OneFile": "finery.fields",
    "OptionalFiles": "finery.fields",
    "Past": "finery.plugin.history",
    "Piece": "finery.preflight.report",
    "Pinned": "finery.step.interfaces",
    "PluginError": "finery.errors",
    "Preflight": "finery.step.interfaces",
    "Price": "finery.inference.budget",
    "Proof": "finery.preflight.report",
    "RefusedError": "finery.errors",
    "Request": "finery.inference.types",
    "RequirementError": "finery.errors",
    "Results": "finery.plugin.history",
    "Sample": "finery.preflight.report",
    "Sampling": "finery.inference.types",
    "Settings": "finery.fields",
    "Source": "finery.recipe.graph",
    "Step": "finery.step.step",
    "StepError": "finery.errors",
    "Store": "finery.store.database",
    "Tally": "finery.preflight.report",
    "Traceable": "finery.step.interfaces",
    "Usage": "finery.inference.budget",
    "UsageError": "finery.errors",
    "counted": "finery.cli.console",
    "cpu_count": "finery.util.machine",
    "did_you_mean": "finery.util.text",
    "error_from_dict": "finery.errors",
    "evaluates": "finery.recipe.graph",
    "files_of": "finery.step.inspect",
    "find_files": "finery.recipe.files",
    "floating_name": "finery.step.interfaces",
    "formats_of": "finery.inference.records",
    "generates": "finery.recipe.graph",
    "hookimpl": "finery.plugin.hookspecs",
    "interface": "finery.step.interfaces",
    "json_option": "finery.cli.options",
    "load_plugins": "finery.plugin.manager",
    "load_reference": "finery.util.references",
    "nearest": "finery.util.text",
    "nested_step": "finery.fields",
    "observes": "finery.plugin.hookspecs",
    "open_graph": "finery.build.project",
    "open_store": "finery.build.project",
    "print_json": "finery.cli.console",
    "prompt_tokens": "finery.inference.budget",
    "raise_all": "finery.recipe.validate",
    "recipe_option": "finery.cli.options",
    "result_of": "finery.build.project",
    "row_sources": "finery.recipe.graph",
    "sampling_of": "finery.inference.records",
    "set_option": "finery.cli.options",
    "setting": "finery.fields",
    "shown": "finery.util.paths",
    "some_of": "finery.preflight.report",
    "sources_of": "finery.recipe.graph",
    "takes": "finery.fields",
    "trains": "finery.recipe.graph",
    "version_of": "finery.util.installed",
}
"""Name → the module that defines it, imported when it is first used: commands start faster."""

__all__ = [
    "CHARACTERS_A_TOKEN",
    "FILE_MODULE",
    "NAMED",
    "About",
    "Answer",
    "Artifact",
    "Batch",
    "Budget",
    "Bundle",
    "CachedEngine",
    "Completion",
    "Count",
    "DataError",
    "Dataset",
    "Engine",
    "Estimate",
    "Files",
    "FineryError",
    "Forecast",
    "Graph",
    "Job",
    "Lock",
    "Manifest",
    "MemoryRecords",
    "Metrics",
    "Model",
    "Node",
    "Note",
    "OneFile",
    "OptionalFiles",
    "Past",
    "Piece",
    "Pinned",
    "PluginError",
    "Preflight",
    "Price",
    "Proof",
    "RefusedError",
    "Request",
    "RequirementError",
    "Results",
    "Sample",
    "Sampling",
    "Settings",
    "Source",
    "Step",
    "StepError",
    "Store",
    "Tally",
    "Traceable",
    "Usage",
    "UsageError",
    "counted",
    "cpu_count",
    "did_you_mean",
    "error_from_dict",
    "evaluates",
    "files_of",
    "find_files",
    "floating_name",
    "formats_of",
    "generates",
    "hookimpl",
    "interface",
    "json_option",
    "load_plugins",
    "load_reference",
    "nearest",
    "nested_step",
    "observes",
    "open_graph",
    "open_store",
    "print_json",
    "prompt_tokens",
    "raise_all",
    "recipe_option",
    "result_of",
    "row_sources",
    "sampling_of",
    "set_option",
    "setting",
    "shown",
    "some_of",
    "sources_of",
    "takes",
    "trains",
    "version_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'finery' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
