"""Outputs for people: the view of each, the lines around it, and its page."""

import io
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.artifact.kinds import Artifact
from finery.artifact.manifest import Manifest, Result
from finery.builder.checks import blocked_by, failed_gates
from finery.builder.outputs import build_folder
from finery.builder.plan import Planner, make_plan
from finery.cli.console import print_gate, print_json, print_progress, print_wrapped, with_recipe
from finery.compare.outputs import (
    folded,
    output_of,
    outputs_by_view,
    phrase,
    title_of,
    titled,
    view_of,
)
from finery.compare.variants import choice_in_words, choice_of, lines_of, remarks_on, table_of
from finery.errors import FineryError, UsageError
from finery.recipe.graph import Graph, Node
from finery.recipe.matrix.choose import WINNER
from finery.report.verdict import verdict_of
from finery.store.database import Store
from finery.util.paths import shown
from finery.util.text import in_dollars, size, visible
from finery.views.html import render_sections
from finery.views.parts import Section, Text, Verdict
from finery.views.terminal import print_fields, print_sections
from finery.views.view import Context, Detail, Output, View, page_of, sections_of

if TYPE_CHECKING:
    from rich.console import Console

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
    from rich.table import Table

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")

    class Stdout(Console):
        ends_with_blank = False  # as tables do

        def on_broken_pipe(self) -> None:  # rich would call sys.exit, as if a plugin had
            raise BrokenPipeError

        def render_str(self, text: str, **options: Any) -> Any:  # also of cells and titles
            return super().render_str(visible(text), **options)

        def print(self, *objects: Any, **options: Any) -> None:
            if options.get("style") == "dim":  # a hint, not data
                objects = tuple(with_recipe(o) if isinstance(o, str) else o for o in objects)
            if objects or not self.ends_with_blank:
                super().print(*objects, **options)
            last = objects[-1] if objects else None
            self.ends_with_blank = isinstance(last, Table) and last.box is not None

    if sys.stdout.isatty():
        return Stdout(highlight=False)
    file: Any = _Unpadded(sys.stdout)
    return Stdout(file=file, highlight=False, width=PIPE_WIDTH)


def note(text: str) -> None:
    """Print a note about what is shown."""
    click.echo(f"note: {text}", err=True)


def progress(activity: str, done: int, total: int) -> None:
    """Print the progress of a page on a terminal."""
    print_progress(f"{activity}{f', {done:,} of {total:,}' if total else ''}")


def context_of(graph: Graph, store: Store, title: str = "", **facts: Any) -> Context:
    """The context of what a view shows. facts: those of `Context`."""

    @cache  # a plan takes time
    def built(name: str) -> Artifact | None:
        step, _, output = name.partition(".")
        plans = make_plan(Planner(graph.select([step]), store), without_files=True)
        result = next((p.result for p in plans if p.node.name == step), None)
        if result is None:
            return None
        manifest = result.outputs.get(output) or next(iter(result.outputs.values()))
        return store.artifact(manifest)

    name = graph.recipe.name
    defaults = {"tokenizer": None, "progress": progress, "note": note, "medium": "terminal"}
    return Context(f"{name}: {title}" if title else name, graph, built, **(defaults | facts))


def show_outputs(
    graph: Graph,
    store: Store,
    result: Result,
    manifests: Mapping[str, Manifest],
    detail: Detail,
    pages: Mapping[str, Path],
    failure: FineryError | None,
    *,
    as_json: bool,
) -> None:
    """Print outputs of a step on stdout.

    result: that they are of. pages: title of an output → the page that was written of it. failure:
    why a build fails at the step, see `failed_gates`.
    """
    seed, dollars = dict(result.parts).get("seed"), store.dollars_spent([result.key])
    for title, manifest in manifests.items():
        view = view_of(graph.plugins, manifest)
        output = linked_output(graph, store, title, manifest)._replace(graph=graph)
        if as_json:
            facts = {} if seed is None else {"seed": seed}
            facts |= {"dollars": dollars} if dollars else {}
            facts |= _error_data(failure) | ({"html": str(pages[title])} if title in pages else {})
            print_json({
                "name": title, "kind": manifest.kind, "digest": manifest.digest,
                "meta": manifest.meta, "bytes": manifest.size(),
                "files": {name: count for name, (_, count) in manifest.files.items()},
                "path": str(output.artifact.path), **view.data(output, detail), **facts,
            })  # fmt: skip
            continue
        console, about = stdout(), [manifest.kind, size(manifest.size())]
        about += [f"seed {seed}"] if seed is not None else []
        about += [f"cost {in_dollars(dollars)}"] if dollars else []
        console.print(f"[bold]{title}[/]  [dim]{', '.join(about)}[/]")
        context = context_of(graph, store, title, detail=detail)
        print_sections(console, sections_of(view, [output], context, strict=True))
        console.print()
    if as_json:
        return
    if failure is not None:
        _print_failure(graph, next(iter(manifests)).partition(".")[0], failure)
    for path in dict.fromkeys(pages.values()):
        click.echo(f"page: {shown(path)}")


def linked_output(graph: Graph, store: Store, title: str, manifest: Manifest) -> Output:
    """An output for its view, with its path under `build/` if that shows it."""
    output = output_of(graph.plugins, store, title, manifest)
    link = build_folder(graph.recipe).joinpath(*title.split("."))
    is_current = link.resolve() == output.artifact.path.resolve()
    return output._replace(link=link) if is_current else output


def overview(graph: Graph, store: Store, *, as_json: bool) -> None:
    """Print a line for each step, then the tables that several outputs share."""

    built: list[tuple[str, Manifest]] = []
    plans = list(make_plan(Planner(graph, store), without_files=True))
    groups = folded(plans, lambda plan: plan.node, lambda _: None)
    heads = {g[0].node.name: title_of([p.node for p in g]) for g in groups}
    width = max(map(len, heads.values()))
    failed = failed_gates(graph, store, {plan.node.name: plan.result for plan in plans})
    for plan in plans:
        name, result = plan.node.name, plan.result
        outputs = titled(name, result.outputs) if result else {}
        built += outputs.items() if not compared(plan.node) else ()
        short = {title.partition(".")[2]: manifest for title, manifest in outputs.items()}
        if as_json:
            step: dict[str, Any] = {"step": name, "use": plan.node.use, "state": plan.state}
            if result:
                step["outputs"] = {
                    output: {"kind": m.kind, "bytes": m.size(), "digest": m.digest}
                    for output, m in short.items()
                }
            print_json(step | _error_data(failed.get(name)))
            continue
        if name not in heads:
            continue  # a variant, which the first one's line counts
        if heads[name] != name:
            variants = [p for p in plans if p.node.variant and p.node.origin == plan.node.origin]
            text = f"{sum(bool(p.result) for p in variants)} built"
        elif result is None:
            text = "not built" if plan.state == "run" else plan.reason
        else:  # e.g. `train: Dataset 404 rows, 125 KiB`
            text = "; ".join(
                f"{f'{output}: ' if output else ''}{m.kind} {phrase(graph.plugins, m)}"
                for output, m in short.items()
            )
            if dollars := store.dollars_spent([result.key]):
                text = f"{text}, cost {in_dollars(dollars)}"
        print_wrapped(f"{heads[name]:<{width}}  ", text, hang=width + 2, dim=True)
    if as_json:
        return
    show_together(graph, store, built, {plan.node.name: plan.result for plan in plans})
    if graph.matrix is not None:
        print_matrix(graph, store, {plan.node.name: plan.result for plan in plans})
    for name, error in failed.items():
        _print_failure(graph, name, error)


def compared(node: Node) -> bool:
    """Whether a step's score is in the table of the matrix: it is a variant, or the choice."""
    return bool(node.variant) or node.name == WINNER


def print_matrix(
    graph: Graph,
    store: Store,
    results: Mapping[str, Result | None],
    failed: Mapping[str, str] | None = None,
) -> None:
    """Print the variants, best first. failed: step → `failed` or `blocked`, in a build."""
    lines, choice = lines_of(graph, store, results, failed or {}), choice_of(graph, results)
    remarks = [Text(text, "soft") for text in remarks_on(lines)]
    remarks += [Text(choice_in_words(choice, lines))] if choice is not None else []
    print_sections(stdout(), [Section("", [table_of(graph, lines, {}), *remarks])])


def _print_failure(graph: Graph, step: str, error: FineryError) -> None:
    head = click.style(f"{step} fails the build:", fg="red", bold=True)
    print_gate(head, error, blocked_by(graph, {step}), 2)


def _error_data(error: FineryError | None) -> dict[str, Any]:
    return {"error": error.to_dict()} if error else {}


def show_together(*args: Any) -> None:
    """Print what `shown_together` returns."""
    verdict, sections = shown_together(*args)
    if verdict:
        print_sections(stdout(), [Section("", [Text(verdict.text, "strong"), Text("")])])
    print_sections(stdout(), sections)


def shown_together(
    graph: Graph,
    store: Store,
    manifests: Iterable[tuple[str, Manifest]],
    results: Mapping[str, Result | None],
) -> tuple[Verdict | None, list[Section]]:
    """What to ship, and what several outputs of a recipe share, e.g. a table of all scores.

    results: of the steps, None for those that aren't built.
    """
    gates = failed_gates(graph, store, results)
    context = context_of(graph, store, scope="summary", gates=gates)
    sections = [
        section
        for view, outputs in outputs_by_view(graph.plugins, store, manifests)
        for section in sections_of(view, outputs, context)
    ]
    built = [name for name, result in results.items() if result is not None]
    return verdict_of(graph, built, gates, sections), sections


# -- pages and records --------------------------------------------------------------------------


def write_pages(
    graph: Graph,
    store: Store,
    manifests: Mapping[str, Manifest],
    html: str,
    tokenizer: str | None,
) -> dict[str, Path]:
    """Write the pages of a step's outputs. Returns title of an output → its page.

    html: the file or folder of `--html`; empty: next to the outputs. tokenizer: the model of
    `--tokenizer`. Raises `UsageError` if several pages need the same file.
    """
    outputs = [linked_output(graph, store, title, m) for title, m in manifests.items()]
    groups: dict[object, tuple[View, list[Output]]] = {}
    for output in outputs:
        view = view_of(graph.plugins, output.manifest)
        key = type(view) if view.side_by_side else output.title
        groups.setdefault(key, (view, []))[1].append(output)
    if len(groups) > 1 and html and not Path(html).is_dir():
        raise UsageError(
            f"the step has {len(groups)} pages, but --html names one file",
            where="--html",
            fix=f"choose an output: finery show {outputs[0].title} --html {html}",
        )
    paths: dict[str, Path] = {}
    for view, group in groups.values():
        title = group[0].title if len(group) == 1 else group[0].step
        if (name := page_of(group[0].manifest)) is not None:
            # As it is: browsers take the links under `build/` for text.
            page = group[0].artifact.file(name).read_text(encoding="utf-8")
        else:
            context = context_of(graph, store, title, tokenizer=tokenizer, medium="page")
            try:
                sections = list(sections_of(view, group, context, strict=True))
            finally:
                print_progress("")
            page = render_sections(context.title, sections)
        path = Path(html) if html else build_folder(graph.recipe)
        if not html or path.is_dir():
            path /= f"{title}{view.page_suffix}.html"
        paths |= dict.fromkeys((o.title for o in group), write_page(path, page, store.root))
    return paths


def print_records(
    graph: Graph,
    store: Store,
    manifests: Mapping[str, Manifest],
    detail: Detail,
    *,
    jsonl: bool,
    most: int | None = None,
) -> None:
    """Print the records of a step's outputs for `--wrong`, as JSON lines or for people.

    most: number of records of each output; by default all. Raises `UsageError` if none of the
    outputs has a view that lists records.
    """
    has_records = False
    for title, manifest in manifests.items():
        view = view_of(graph.plugins, manifest)
        output = output_of(graph.plugins, store, title, manifest)
        records = view.records(output, context_of(graph, store, title, detail=detail))
        has_records |= records is not None
        for record in islice(records or (), most):
            if jsonl:
                print_json(record.data)
                continue
            console = stdout()
            print_fields(console, record.fields)
            console.print()
    if not has_records:
        raise UsageError(
            f"{', '.join(manifests)} has no wrong answers: it isn't an evaluator's output",
            where="--wrong",
            fix="name an evaluator",
        )


def write_page(path: Path, text: str, store: Path, option: str = "--html") -> Path:
    """Write a page. option: the one that named the file, for errors.

    Raises `UsageError` inside the store, in place of a file that isn't a page, such as a recipe,
    and where writing fails.
    """
    if path.resolve().is_relative_to(store.resolve()):
        raise UsageError(
            f"{shown(path)} is in the output of a step, which is read-only",
            where=option,
            fix="choose a file in another folder",
        )
    try:
        if path.suffix.lower() not in (".html", ".htm") and path.is_file():
            with path.open("rb") as file:
                start = file.read(100).lstrip()
            if start and not start.startswith(b"<"):
                raise UsageError(
                    f"{shown(path)} is not a page, and finery doesn't overwrite it",
                    where=option,
                    fix=f"name another file: the word after {option} is the page, not the recipe",
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"can't write {shown(path)}: {error.strerror}",
            where=option,
            fix="choose another file",
        ) from error
    return path
