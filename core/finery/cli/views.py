"""Which view shows an output, and what commands print of it around the view's own part."""

import io
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.artifact.manifest import Manifest
from finery.cli.console import print_json, print_wrapped
from finery.util.paths import shown
from finery.util.text import size

if TYPE_CHECKING:
    from rich.console import Console

    from finery.build.plan import StepPlan
    from finery.plugin.manager import Plugins
    from finery.plugin.views.view import Detail, Output, View
    from finery.recipe.graph import Graph
    from finery.store.database import Store

PIPE_WIDTH = 140
"""Columns of what is printed into a pipe or a file."""


def stdout() -> "Console":
    """A console on stdout that doesn't wrap where there is no terminal.

    What a terminal's encoding lacks is printed as `?`.
    """
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")

    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(file=sys.stdout, highlight=False, width=width)


def view_of(plugins: "Plugins", manifest: Manifest) -> "View":
    """The view that shows an artifact."""
    return plugins.view(manifest.kind, str(manifest.meta.get("format", "")))


def output_of(plugins: "Plugins", store: "Store", title: str, manifest: Manifest) -> "Output":
    """An output to hand to its view. title: what the recipe calls it."""
    from finery.plugin.views.view import Output

    refs = {role: phrase(plugins, ref) for role, ref in manifest.refs.items()}
    return Output(title, store.artifact(manifest), manifest, refs)


def titled(step: str, outputs: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """What the recipe calls each output → its manifest.

    Without the nameless output where it only repeats a named one.
    """
    named = {name: m for name, m in outputs.items() if name or outputs.keys() == {""}}
    return {f"{step}.{name}" if name else step: manifest for name, manifest in named.items()}


def phrase(plugins: "Plugins", manifest: Manifest) -> str:
    """What a list says of an artifact: `gguf q8_0, 138 MiB`."""
    brief = view_of(plugins, manifest).brief(manifest)
    return ", ".join(part for part in (brief, size(manifest.size())) if part)


def show_outputs(
    graph: "Graph",
    store: "Store",
    manifests: Mapping[str, Manifest],
    detail: "Detail",
    pages: Mapping[str, Path],
    *,
    seed: int | None = None,
    as_json: bool,
) -> None:
    """Print outputs on stdout.

    pages: title of an output → the page that was written of it. seed: the one that the step ran
    with, None where its outputs don't depend on it.
    """
    for title, manifest in manifests.items():
        output = output_of(graph.plugins, store, title, manifest)
        view = view_of(graph.plugins, manifest)
        if as_json:
            page = {"html": str(pages[title])} if title in pages else {}
            seeded = {} if seed is None else {"seed": seed}
            print_json({"name": title, **_data(view, output, detail), **seeded, **page})
            continue
        console = stdout()
        about = [manifest.kind, size(manifest.size())]
        about += [] if seed is None else [f"seed {seed}"]
        console.print(f"[bold]{title}[/]  [dim]{', '.join(about)}[/]")
        view.print(console, output, detail)
        console.print()
    for path in [] if as_json else dict.fromkeys(pages.values()):
        click.echo(f"page: {shown(path)}")


def _data(view: "View", output: "Output", detail: "Detail") -> dict[str, Any]:
    """The output as plain data, for `--json`."""
    manifest = output.manifest
    return {
        "kind": manifest.kind,
        "digest": manifest.digest,
        "meta": manifest.meta,
        "bytes": manifest.size(),
        "files": {name: count for name, (_, count) in manifest.files.items()},
        "path": str(output.artifact.path),
        **view.data(output, detail),
    }


def overview(graph: "Graph", store: "Store", *, as_json: bool) -> None:
    """Print a line for each step, then what the outputs say together."""
    from finery.build.plan import Planner, make_plan

    built: list[tuple[str, Manifest]] = []
    width = max(map(len, graph.nodes))
    for plan in make_plan(Planner(graph, store), without_files=True):
        manifests = titled(plan.node.name, plan.result.outputs) if plan.result else {}
        built += manifests.items()
        if as_json:
            print_json(_overview_data(plan, manifests))
            continue
        text = ", ".join(_phrases(graph, manifests))
        if plan.result is None:
            text = "not built" if plan.state == "run" else plan.reason
        print_wrapped(f"{plan.node.name:<{width}}  ", text, hang=width + 2, dim=True)
    if not as_json:
        show_together(graph.plugins, store, built)


def _phrases(graph: "Graph", manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """What a step made: `train: Dataset 404 rows, 125 KiB`."""
    for title, manifest in manifests.items():
        name = title.partition(".")[2]
        yield f"{f'{name}: ' if name else ''}{manifest.kind} {phrase(graph.plugins, manifest)}"


def _overview_data(plan: "StepPlan", manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    step = {"step": plan.node.name, "use": plan.node.use, "state": plan.state}
    outputs = {
        title.partition(".")[2]: {"kind": m.kind, "bytes": m.size(), "digest": m.digest}
        for title, m in manifests.items()
    }
    return {**step, "outputs": outputs} if plan.result else step


def show_together(
    plugins: "Plugins", store: "Store", manifests: Iterable[tuple[str, Manifest]]
) -> None:
    """Print what the outputs of a recipe say together, e.g. a table of all scores."""
    from finery.plugin.views.view import View

    groups: dict[type[View], list[Output]] = {}
    views: dict[tuple[str, Any], type[View]] = {}
    for title, manifest in manifests:
        format_ = manifest.kind, manifest.meta.get("format")
        view = views.get(format_) or type(view_of(plugins, manifest))
        views[format_] = view
        if view.print_together is not View.print_together:
            groups.setdefault(view, []).append(output_of(plugins, store, title, manifest))
    for view, outputs in groups.items():
        view().print_together(stdout(), outputs)
