"""Printing outputs: the view of each, and the lines around it."""

import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from finery.artifact.manifest import Manifest
from finery.cli.console import print_json, print_wrapped
from finery.compare.fold import folded, title_of
from finery.util.paths import shown
from finery.util.text import in_dollars, size, visible

if TYPE_CHECKING:
    from rich.console import Console

    from finery.builder.plan import StepPlan
    from finery.errors import FineryError
    from finery.plugin.manager import Plugins
    from finery.recipe.graph import Graph, Node
    from finery.store.database import Store
    from finery.views.view import Detail, Output, View

PIPE_WIDTH = 1_000
"""Columns of output to a pipe or a file: wide enough that lines aren't broken."""
_PADDING = re.compile(r"[ \t]+(?=\n)")


class _Unpadded:
    """A stream without spaces at the ends of lines, which rich adds to tables."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_PADDING.sub("", text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def stdout() -> "Console":
    """A console on stdout that neither wraps nor pads unless stdout is a terminal.

    Characters that the encoding lacks are printed as `?`.
    """
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")

    class Stdout(Console):
        def on_broken_pipe(self) -> None:  # rich would call sys.exit, as if a plugin had
            raise BrokenPipeError

    if sys.stdout.isatty():
        return Stdout(highlight=False)
    file: Any = _Unpadded(sys.stdout)
    return Stdout(file=file, highlight=False, width=PIPE_WIDTH)


def view_of(plugins: "Plugins", manifest: Manifest) -> "View":
    """The view that shows an artifact."""
    return plugins.view(manifest.kind, str(manifest.meta.get("format", "")))


def output_of(plugins: "Plugins", store: "Store", title: str, manifest: Manifest) -> "Output":
    """An output for its view. title: its name in the recipe."""
    from finery.views.view import Output

    refs = {role: phrase(plugins, ref) for role, ref in manifest.refs.items()}
    return Output(title, store.artifact(manifest), manifest, refs)


def titled(step: str, outputs: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Name in the recipe → manifest of each output.

    The unnamed output is omitted if it repeats a named one.
    """
    named = {name: m for name, m in outputs.items() if name or outputs.keys() == {""}}
    return {f"{step}.{name}" if name else step: manifest for name, manifest in named.items()}


def phrase(plugins: "Plugins", manifest: Manifest) -> str:
    """An artifact in a few words, for a list: `gguf q8_0, 138 MiB`."""
    brief = view_of(plugins, manifest).brief(manifest)
    return ", ".join(part for part in (brief, size(manifest.size())) if part)


class Made(NamedTuple):
    """Facts about a step that its outputs don't hold.

    seed: the seed of the run, None if the outputs don't depend on it. dollars: the cost of the
    answers in the outputs. error: why a build fails at the step, see `failed_gates`.
    """

    seed: int | None = None
    dollars: float = 0.0
    error: "FineryError | None" = None

    def words(self) -> Iterator[str]:
        """The text next to an output's title."""
        if self.seed is not None:
            yield f"seed {self.seed}"
        if self.dollars:
            yield f"cost {in_dollars(self.dollars)}"

    def data(self) -> dict[str, Any]:
        """The same as plain data."""
        seed = {} if self.seed is None else {"seed": self.seed}
        dollars = {"dollars": self.dollars} if self.dollars else {}
        return seed | dollars | _error_data(self.error)


def show_outputs(
    graph: "Graph",
    store: "Store",
    manifests: Mapping[str, Manifest],
    detail: "Detail",
    pages: Mapping[str, Path],
    *,
    made: "Made",
    as_json: bool,
) -> None:
    """Print outputs of a step on stdout.

    pages: title of an output → the page that was written of it.
    """
    for title, manifest in manifests.items():
        output = output_of(graph.plugins, store, title, manifest)
        output = output._replace(link=_link_of(graph, output))
        view = view_of(graph.plugins, manifest)
        if as_json:
            page = {"html": str(pages[title])} if title in pages else {}
            print_json({"name": title, **_data(view, output, detail), **made.data(), **page})
            continue
        console = stdout()
        about = [manifest.kind, size(manifest.size()), *made.words()]
        console.print(f"[bold]{title}[/]  [dim]{', '.join(about)}[/]")
        view.print(console, output, detail)
        console.print()
    if made.error is not None and not as_json:
        print_gate(graph, next(iter(manifests)).partition(".")[0], made.error)
    for path in [] if as_json else dict.fromkeys(pages.values()):
        click.echo(f"page: {shown(path)}")


def _link_of(graph: "Graph", output: "Output") -> Path | None:
    """The link under `build/` that leads to an output, if there is one."""
    from finery.builder.outputs import build_folder

    link = build_folder(graph.recipe).joinpath(*output.title.split("."))
    return link if link.resolve() == output.artifact.path.resolve() else None


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
    """Print a line for each step, then the tables that several outputs share."""
    from finery.builder.checks import failed_gates
    from finery.builder.plan import Planner, make_plan
    from finery.store.spending import dollars_spent

    built: list[tuple[str, Manifest]] = []
    plans = list(make_plan(Planner(graph, store), without_files=True))
    groups = folded(plans, lambda plan: plan.node, lambda _: None)
    heads = {g[0].node.name: title_of([p.node for p in g]) for g in groups}
    width = max(map(len, heads.values()))
    failed = failed_gates(graph, store, {plan.node.name: plan.result for plan in plans})
    for plan in plans:
        manifests = titled(plan.node.name, plan.result.outputs) if plan.result else {}
        built += manifests.items() if not compared(plan.node) else ()
        if as_json:
            error = failed.get(plan.node.name)
            print_json(_overview_data(plan, manifests) | _error_data(error))
            continue
        if plan.node.name not in heads:
            continue  # a variant, which the first one's line counts
        title = heads[plan.node.name]
        variants = [p for p in plans if p.node.variant and p.node.origin == plan.node.origin]
        if title != plan.node.name:
            text = f"{sum(bool(p.result) for p in variants)} built"
            print_wrapped(f"{title:<{width}}  ", text, hang=width + 2, dim=True)
            continue
        text = "; ".join(_phrases(graph, manifests))
        if plan.result is None:
            text = "not built" if plan.state == "run" else plan.reason
        elif dollars := dollars_spent(store, [plan.result.key]):
            text = f"{text}, cost {in_dollars(dollars)}"
        print_wrapped(f"{title:<{width}}  ", text, hang=width + 2, dim=True)
    if as_json:
        return
    show_together(graph.plugins, store, built)
    if graph.matrix is not None:
        from finery.cli.matrix.table import print_matrix

        print_matrix(stdout(), graph, store, {plan.node.name: plan.result for plan in plans})
    for name, error in failed.items():
        print_gate(graph, name, error)


def compared(node: "Node") -> bool:
    """Whether a step's score is in the table of the matrix: it is a variant, or the choice."""
    from finery.recipe.matrix.choose import WINNER

    return bool(node.variant) or node.name == WINNER


def print_gate(graph: "Graph", step: str, error: "FineryError") -> None:
    """Print why a build fails at a cached step, and which steps it blocks."""
    from finery.builder.checks import blocked_by

    head = click.style(f"{step} fails the build:", fg="red", bold=True)
    click.echo(f"{head} {visible(error.what)} ({error.where})")
    for line in error.details:
        click.echo(f"  {visible(line)}")
    blocked = ", ".join(blocked_by(graph, {step}))
    if blocked:
        click.echo(f"  blocks {blocked}")


def _error_data(error: "FineryError | None") -> dict[str, Any]:
    return {"error": error.to_dict()} if error else {}


def _phrases(graph: "Graph", manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """The outputs of a step: `train: Dataset 404 rows, 125 KiB`."""
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
    """Print what several outputs of a recipe share, e.g. a table of all scores."""
    from finery.views.view import View

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
