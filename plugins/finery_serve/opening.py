"""Finds a built model or bundle by its name in the recipe, and a server for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click

from finery import Artifact, Bundle, Model, UsageError
from finery.advanced import Graph, Project
from finery_serve.servers import Serve, find_server
from finery_transformers.formats import way_out

EXPORTS = ("gguf.export", "vllm.bundle", "serve.bundle")
"""Step types that convert a model into a format with a server."""


class Opened(NamedTuple):
    """A built model or bundle. name: in the recipe, e.g. `gguf.q8_0`."""

    name: str
    artifact: Artifact
    graph: Graph

    @property
    def format(self) -> str:
        """The format, e.g. `gguf` or `adapter`."""
        return str(self.artifact.meta.get("format", ""))


def open_built(step: str, recipe: Path, overrides: Sequence[str]) -> Opened:
    """Open a step's output, e.g. `gguf.q8_0`, or the first one if `step` names no output.

    A message on stderr says which output was selected, and whether it is out of date. Raises
    `UsageError` unless the output is a built model or bundle.
    """
    project = Project(recipe, overrides)
    graph = project.graph
    name, _, output = step.partition(".")
    graph.require(name)
    node = graph.nodes[name]
    kinds = node.outputs
    if output and output not in kinds:
        outputs = ", ".join(f"{node.name}.{o}" for o in kinds if o) or node.name
        raise UsageError(f"step '{node.name}' has no output '{output}'", fix=f"name {outputs}")
    kind = kinds.get(output, next(iter(kinds.values())))
    if not issubclass(kind, Model | Bundle):
        article = "an" if kind.kind[0] in "AEIOU" else "a"
        raise UsageError(
            f"'{step}' is {article} {kind.kind}, but only a model or a bundle can answer",
            fix="name a step that makes one; `finery show` lists them",
        )
    result, fresh = project.result(name)
    if output:
        manifest = project.output(result, name, output)
    else:
        manifest = next(iter(result.outputs.values()))
    if not fresh:
        text = f"{step} is not up to date: this is the last build (see `finery plan`)"
        click.secho(text, fg="yellow", err=True)
    title = step
    outputs_named = [o for o in result.outputs if o]
    if not output and outputs_named:
        equal_outputs = [o for o in outputs_named if result.outputs[o].digest == manifest.digest]
        title = f"{name}.{(equal_outputs or outputs_named)[0]}"
        if len(outputs_named) > 1:
            other_titles = ", ".join(f"{name}.{o}" for o in outputs_named if f"{name}.{o}" != title)
            click.echo(f"{name} is {title}; there is also {other_titles}", err=True)
    return Opened(title, project.store.artifact(manifest), graph)


def server_for(opened: Opened) -> Serve:
    """The function that serves the artifact. `UsageError` with a way to serve it if none does."""
    server = find_server(opened.graph.plugins, opened.format)
    if server is not None:
        return server
    raise UsageError(
        f"no server is installed for '{opened.name}', which has the format '{opened.format}'",
        fix=_way_out(opened),
    )


def _way_out(opened: Opened) -> str:
    """The fix for a format that no installed server supports."""
    if isinstance(opened.artifact, Bundle):
        run = opened.artifact.meta.get("run")
        return f"run it in its folder: {run}" if run else "name the model that it contains"
    name = opened.name.partition(".")[0]
    exports = [
        node.name
        for node in opened.graph.nodes.values()
        if node.use in EXPORTS and name in node.upstream()
    ]
    if exports:
        return f"serve its export: finery serve {exports[0]}"
    return way_out(opened.artifact, name)
