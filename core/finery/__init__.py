"""finery: a declarative, plugin-based build system for small fine-tuned language models.

This is what plugins may import, beside the row logic in `finery.rows` and the test kit in
`finery.testing`. Everything else under `finery` may move from one version to the next.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finery.artifact.kinds import Artifact, Bundle, Dataset, Index, Metrics, Model
    from finery.artifact.manifest import Manifest
    from finery.build.project import built_output, open_graph, open_results, open_store, result_of
    from finery.cli.console import print_json
    from finery.cli.options import (
        json_option,
        matrix_option,
        recipe_and_optional_step,
        recipe_and_step,
        recipe_option,
        set_option,
    )
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
    from finery.execute.environment import worker_environment
    from finery.execute.executor import Executor
    from finery.execute.gpu import Gpu
    from finery.execute.gpus import driver_cuda, named_gpus, visible_gpus
    from finery.execute.task import Closing, Report, Task, TaskEvent
    from finery.execute.worker import run_task
    from finery.fields import (
        FileOrName,
        Files,
        OneFile,
        OptionalFiles,
        Role,
        Settings,
        nested_step,
        setting,
        takes,
    )
    from finery.inference.budget import CHARACTERS_A_TOKEN, Budget, Price, Usage, prompt_tokens
    from finery.inference.cache import CachedEngine
    from finery.inference.engine import Engine, EngineJob
    from finery.inference.records import MemoryRecords, formats_of, sampling_of
    from finery.inference.types import Answer, Batch, Completion, Request, Sampling
    from finery.plugin.forecasts import (
        asked_of,
        columns_of,
        count_rows,
        forecast_of,
        forecasts_requests,
        sample_rows,
        size_in_name,
    )
    from finery.plugin.history import Past, Results
    from finery.plugin.hookspecs import hookimpl, observes
    from finery.plugin.manager import load_plugins
    from finery.plugin.notes import About, Estimate, Note
    from finery.plugin.source import load_source
    from finery.plugin.views.display import (
        counts_in_words,
        print_facts,
        print_labelled,
        print_row,
        print_turns,
    )
    from finery.plugin.views.html import render_page, templates_digest
    from finery.plugin.views.metrics import LiveMetric
    from finery.plugin.views.section import Finding, PageSection, render_sections
    from finery.plugin.views.view import Detail, Output, Page, PageContext, Remark, View
    from finery.preflight.report import NAMED, Piece, Proof, Sample, Tally, some_of
    from finery.recipe.files import with_files
    from finery.recipe.graph import (
        Graph,
        Node,
        Source,
        base_models,
        evaluates,
        generates,
        inputs_as,
        row_sources,
        sources_of,
        trains,
    )
    from finery.recipe.lock import Lock
    from finery.recipe.matrix.sample import SearchPoint, SearchRange, SearchSpace
    from finery.recipe.validate import raise_all
    from finery.step.hints import Hints
    from finery.step.inspect import FILE_MODULE, files_of
    from finery.step.interfaces import (
        Asked,
        Count,
        Forecast,
        Pinned,
        Preflight,
        Provenance,
        Traceable,
        floating_name,
        interface,
    )
    from finery.step.job import Job
    from finery.step.step import Step
    from finery.store.database import Store
    from finery.util.files import check_plain, copy_file
    from finery.util.installed import version_of
    from finery.util.machine import cpu_count
    from finery.util.paths import linked, shown
    from finery.util.references import load_reference
    from finery.util.text import (
        counted,
        did_you_mean,
        in_points,
        nearest,
        percent,
        range_in_points,
        rough_duration,
        signed,
        size,
        visible,
    )

__version__ = "0.1.0"

_HOME = {
    "About": "finery.plugin.notes",
    "Answer": "finery.inference.types",
    "Artifact": "finery.artifact.kinds",
    "Asked": "finery.step.interfaces",
    "Batch": "finery.inference.types",
    "Budget": "finery.inference.budget",
    "Bundle": "finery.artifact.kinds",
    "CHARACTERS_A_TOKEN": "finery.inference.budget",
    "CachedEngine": "finery.inference.cache",
    "Closing": "finery.execute.task",
    "Completion": "finery.inference.types",
    "Count": "finery.step.interfaces",
    "DataError": "finery.errors",
    "Dataset": "finery.artifact.kinds",
    "Detail": "finery.plugin.views.view",
    "Engine": "finery.inference.engine",
    "EngineJob": "finery.inference.engine",
    "Estimate": "finery.plugin.notes",
    "Executor": "finery.execute.executor",
    "FILE_MODULE": "finery.step.inspect",
    "Files": "finery.fields",
    "Finding": "finery.plugin.views.section",
    "FineryError": "finery.errors",
    "Forecast": "finery.step.interfaces",
    "Gpu": "finery.execute.gpu",
    "Graph": "finery.recipe.graph",
    "Hints": "finery.step.hints",
    "Index": "finery.artifact.kinds",
    "Job": "finery.step.job",
    "LiveMetric": "finery.plugin.views.metrics",
    "Lock": "finery.recipe.lock",
    "Manifest": "finery.artifact.manifest",
    "MemoryRecords": "finery.inference.records",
    "Metrics": "finery.artifact.kinds",
    "Model": "finery.artifact.kinds",
    "NAMED": "finery.preflight.report",
    "Node": "finery.recipe.graph",
    "Note": "finery.plugin.notes",
    "OneFile": "finery.fields",
    "FileOrName": "finery.fields",
    "OptionalFiles": "finery.fields",
    "Output": "finery.plugin.views.view",
    "Page": "finery.plugin.views.view",
    "PageContext": "finery.plugin.views.view",
    "PageSection": "finery.plugin.views.section",
    "Past": "finery.plugin.history",
    "Piece": "finery.preflight.report",
    "Pinned": "finery.step.interfaces",
    "PluginError": "finery.errors",
    "Preflight": "finery.step.interfaces",
    "Price": "finery.inference.budget",
    "Provenance": "finery.step.interfaces",
    "Proof": "finery.preflight.report",
    "RefusedError": "finery.errors",
    "Remark": "finery.plugin.views.view",
    "Report": "finery.execute.task",
    "Request": "finery.inference.types",
    "RequirementError": "finery.errors",
    "Results": "finery.plugin.history",
    "Role": "finery.fields",
    "Sample": "finery.preflight.report",
    "Sampling": "finery.inference.types",
    "SearchPoint": "finery.recipe.matrix.sample",
    "SearchRange": "finery.recipe.matrix.sample",
    "SearchSpace": "finery.recipe.matrix.sample",
    "Settings": "finery.fields",
    "Source": "finery.recipe.graph",
    "Step": "finery.step.step",
    "StepError": "finery.errors",
    "Store": "finery.store.database",
    "Tally": "finery.preflight.report",
    "Task": "finery.execute.task",
    "TaskEvent": "finery.execute.task",
    "Traceable": "finery.step.interfaces",
    "Usage": "finery.inference.budget",
    "UsageError": "finery.errors",
    "View": "finery.plugin.views.view",
    "asked_of": "finery.plugin.forecasts",
    "base_models": "finery.recipe.graph",
    "built_output": "finery.build.project",
    "check_plain": "finery.util.files",
    "columns_of": "finery.plugin.forecasts",
    "copy_file": "finery.util.files",
    "count_rows": "finery.plugin.forecasts",
    "counted": "finery.util.text",
    "counts_in_words": "finery.plugin.views.display",
    "cpu_count": "finery.util.machine",
    "did_you_mean": "finery.util.text",
    "driver_cuda": "finery.execute.gpus",
    "error_from_dict": "finery.errors",
    "evaluates": "finery.recipe.graph",
    "files_of": "finery.step.inspect",
    "floating_name": "finery.step.interfaces",
    "forecast_of": "finery.plugin.forecasts",
    "forecasts_requests": "finery.plugin.forecasts",
    "formats_of": "finery.inference.records",
    "generates": "finery.recipe.graph",
    "hookimpl": "finery.plugin.hookspecs",
    "in_points": "finery.util.text",
    "inputs_as": "finery.recipe.graph",
    "interface": "finery.step.interfaces",
    "json_option": "finery.cli.options",
    "load_plugins": "finery.plugin.manager",
    "linked": "finery.util.paths",
    "load_reference": "finery.util.references",
    "load_source": "finery.plugin.source",
    "matrix_option": "finery.cli.options",
    "named_gpus": "finery.execute.gpus",
    "nearest": "finery.util.text",
    "nested_step": "finery.fields",
    "observes": "finery.plugin.hookspecs",
    "open_graph": "finery.build.project",
    "open_results": "finery.build.project",
    "open_store": "finery.build.project",
    "percent": "finery.util.text",
    "print_facts": "finery.plugin.views.display",
    "print_json": "finery.cli.console",
    "print_labelled": "finery.plugin.views.display",
    "print_row": "finery.plugin.views.display",
    "print_turns": "finery.plugin.views.display",
    "prompt_tokens": "finery.inference.budget",
    "raise_all": "finery.recipe.validate",
    "range_in_points": "finery.util.text",
    "recipe_and_optional_step": "finery.cli.options",
    "recipe_and_step": "finery.cli.options",
    "recipe_option": "finery.cli.options",
    "render_page": "finery.plugin.views.html",
    "render_sections": "finery.plugin.views.section",
    "result_of": "finery.build.project",
    "rough_duration": "finery.util.text",
    "row_sources": "finery.recipe.graph",
    "run_task": "finery.execute.worker",
    "sample_rows": "finery.plugin.forecasts",
    "sampling_of": "finery.inference.records",
    "set_option": "finery.cli.options",
    "setting": "finery.plugin.deprecated",
    "shown": "finery.util.paths",
    "signed": "finery.util.text",
    "size": "finery.util.text",
    "size_in_name": "finery.plugin.forecasts",
    "some_of": "finery.preflight.report",
    "sources_of": "finery.recipe.graph",
    "takes": "finery.plugin.deprecated",
    "templates_digest": "finery.plugin.views.html",
    "trains": "finery.recipe.graph",
    "version_of": "finery.util.installed",
    "visible": "finery.util.text",
    "visible_gpus": "finery.execute.gpus",
    "with_files": "finery.recipe.files",
    "worker_environment": "finery.execute.environment",
}
"""Name → the module that defines it, imported when it is first used: commands start faster."""

__all__ = [
    "CHARACTERS_A_TOKEN",
    "FILE_MODULE",
    "NAMED",
    "About",
    "Answer",
    "Artifact",
    "Asked",
    "Batch",
    "Budget",
    "Bundle",
    "CachedEngine",
    "Closing",
    "Completion",
    "Count",
    "DataError",
    "Dataset",
    "Detail",
    "Engine",
    "EngineJob",
    "Estimate",
    "Executor",
    "FileOrName",
    "Files",
    "Finding",
    "FineryError",
    "Forecast",
    "Gpu",
    "Graph",
    "Hints",
    "Index",
    "Job",
    "LiveMetric",
    "Lock",
    "Manifest",
    "MemoryRecords",
    "Metrics",
    "Model",
    "Node",
    "Note",
    "OneFile",
    "OptionalFiles",
    "Output",
    "Page",
    "PageContext",
    "PageSection",
    "Past",
    "Piece",
    "Pinned",
    "PluginError",
    "Preflight",
    "Price",
    "Proof",
    "Provenance",
    "RefusedError",
    "Remark",
    "Report",
    "Request",
    "RequirementError",
    "Results",
    "Role",
    "Sample",
    "Sampling",
    "SearchPoint",
    "SearchRange",
    "SearchSpace",
    "Settings",
    "Source",
    "Step",
    "StepError",
    "Store",
    "Tally",
    "Task",
    "TaskEvent",
    "Traceable",
    "Usage",
    "UsageError",
    "View",
    "asked_of",
    "base_models",
    "built_output",
    "check_plain",
    "columns_of",
    "copy_file",
    "count_rows",
    "counted",
    "counts_in_words",
    "cpu_count",
    "did_you_mean",
    "driver_cuda",
    "error_from_dict",
    "evaluates",
    "files_of",
    "floating_name",
    "forecast_of",
    "forecasts_requests",
    "formats_of",
    "generates",
    "hookimpl",
    "in_points",
    "inputs_as",
    "interface",
    "json_option",
    "linked",
    "load_plugins",
    "load_reference",
    "load_source",
    "matrix_option",
    "named_gpus",
    "nearest",
    "nested_step",
    "observes",
    "open_graph",
    "open_results",
    "open_store",
    "percent",
    "print_facts",
    "print_json",
    "print_labelled",
    "print_row",
    "print_turns",
    "prompt_tokens",
    "raise_all",
    "range_in_points",
    "recipe_and_optional_step",
    "recipe_and_step",
    "recipe_option",
    "render_page",
    "render_sections",
    "result_of",
    "rough_duration",
    "row_sources",
    "run_task",
    "sample_rows",
    "sampling_of",
    "set_option",
    "setting",
    "shown",
    "signed",
    "size",
    "size_in_name",
    "some_of",
    "sources_of",
    "takes",
    "templates_digest",
    "trains",
    "version_of",
    "visible",
    "visible_gpus",
    "with_files",
    "worker_environment",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        from finery.plugin import deprecated

        if name in deprecated.NAMES:
            return getattr(deprecated, name)
        raise AttributeError(f"module 'finery' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
