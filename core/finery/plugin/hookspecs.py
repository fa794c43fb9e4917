"""Every hook a plugin can implement. `from finery import hookimpl`."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from finery.execute.executor import Executor
    from finery.inference.engine import Engine
    from finery.plugin.history import Results
    from finery.plugin.notes import About
    from finery.recipe.graph import Graph
    from finery.recipe.matrix.sample import Sampler
    from finery.step.forecast import Note
    from finery.step.job import Job
    from finery.step.step import Step
    from finery.util.events import Event
    from finery.views.view import View

hookspec = pluggy.HookspecMarker("finery")
hookimpl = pluggy.HookimplMarker("finery")
"""Marks the functions of a plugin that finery calls, such as `finery_steps`."""


@hookspec
def finery_steps() -> "Mapping[str, str | type[Step]]":  # type: ignore[empty-body]
    """Return the step types you provide: `plugin.step` → `"module:Class"`."""


@hookspec
def finery_engines() -> "Mapping[str, str | type[Engine]]":  # type: ignore[empty-body]
    """Return the engines you provide: model format → `"module:Class"`."""


@hookspec
def finery_commands() -> "Mapping[str, str | click.Command]":  # type: ignore[empty-body]
    """Return the commands you provide: name → `"module:function"`, a click command."""


@hookspec
def finery_executors() -> "Mapping[str, str | type[Executor]]":  # type: ignore[empty-body]
    """Return the executors you provide: name → `"module:Class"`."""


@hookspec
def finery_samplers() -> "Mapping[str, str | Sampler]":  # type: ignore[empty-body]
    """Return the samplers of `matrix: {sample: …}` you provide: name → `"module:function"`."""


@hookspec(firstresult=True)
def finery_chooser() -> str:  # type: ignore[empty-body]
    """Return the step type that chooses a variant for `matrix: {select: …}`."""


@hookspec
def finery_views() -> "Mapping[str, str | type[View]]":  # type: ignore[empty-body]
    """Return the views you provide: kind of artifact, or `kind/format` → `"module:Class"`."""


@hookspec
def finery_servers() -> "Mapping[str, str | Callable[..., Any]]":  # type: ignore[empty-body]
    """Return the servers you provide: format of a model or bundle → `"module:function"`."""


@hookspec
def finery_copies() -> "Mapping[str, str | Callable[..., Any]]":  # type: ignore[empty-body]
    """Return what completes copies of `finery export`: format → `"module:function"`."""


@hookspec
def finery_notes() -> "Mapping[str, About]":  # type: ignore[empty-body]
    """Return the kinds of notes you give: name → when and why finery gives it."""


@hookspec
def finery_checks(graph: "Graph", results: "Results") -> "Sequence[Note]":  # type: ignore[empty-body]
    """Return notes on a recipe; `results` has the built outputs."""


@hookspec
def finery_worker_environment(  # type: ignore[empty-body]
    use: str, alone: bool, here: bool
) -> Mapping[str, str]:
    """Return environment variables for a new worker with a first step of type `use`."""


@hookspec(firstresult=True)
def finery_run_step(step: "Step", job: "Job") -> Any:
    """Run one step in its worker; wrap it to change or observe how every step runs."""


@hookspec
def finery_build_event(event: "Event", graph: "Graph") -> None:
    """React to an event of a build, each as `finery build --json` prints it."""
