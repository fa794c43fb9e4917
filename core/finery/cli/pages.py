"""`finery show STEP --html` and `--wrong`, which may need several outputs."""

import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import click

from finery.artifact.kinds import Artifact
from finery.artifact.manifest import Manifest
from finery.builder.plan import Planner, make_plan
from finery.cli.console import is_terminal, print_json
from finery.cli.views import output_of, stdout, view_of
from finery.errors import UsageError
from finery.recipe.graph import Graph
from finery.store.database import Store
from finery.util.paths import shown
from finery.views.display import print_labelled
from finery.views.view import Detail, Output, Page, PageContext, View


def write_pages(
    graph: Graph,
    store: Store,
    manifests: Mapping[str, Manifest],
    html: str,
    tokenizer: str | None,
) -> dict[str, Path]:
    """Write the pages of a step's outputs. Returns title of an output → its page.

    html: the file or folder of `--html`; empty: next to the outputs. tokenizer: the model of
    `--tokenizer`. Raises `UsageError` if there is no page, or if several pages need the same file.
    """
    outputs = [output_of(graph.plugins, store, title, m) for title, m in manifests.items()]
    pages = [
        (group, page)
        for view, group in _groups(graph, outputs)
        if (page := _page_of(graph, store, view, group, tokenizer)) is not None
    ]
    if not pages:
        raise _no_page(graph, store, outputs)
    if len(pages) > 1 and html and not Path(html).is_dir():
        raise UsageError(
            f"the step has {len(pages)} pages, but --html names one file",
            where="--html",
            fix=f"choose an output: finery show {pages[0][0][0].title} --html {html}",
        )
    paths: dict[str, Path] = {}
    for group, page in pages:
        path = _file(graph, html, f"{_title(group)}{page.suffix}.html")
        paths |= dict.fromkeys((o.title for o in group), write(path, page.html, store.root))
    return paths


def _groups(graph: Graph, outputs: Sequence[Output]) -> list[tuple[View, list[Output]]]:
    """(view, outputs) of each page."""
    groups: dict[object, tuple[View, list[Output]]] = {}
    for output in outputs:
        view = view_of(graph.plugins, output.manifest)
        key = type(view) if view.side_by_side else output.title
        groups.setdefault(key, (view, []))[1].append(output)
    return list(groups.values())


def _title(group: Sequence[Output]) -> str:
    """The name of a page: its only output, or the step."""
    return group[0].title if len(group) == 1 else group[0].step


def _page_of(
    graph: Graph, store: Store, view: View, group: Sequence[Output], tokenizer: str | None
) -> Page | None:
    context = _context(graph, store, group, tokenizer)
    try:
        return view.page(group, context)
    finally:
        if is_terminal(sys.stderr):
            click.echo("\r\x1b[2K", nl=False, err=True)


def _context(
    graph: Graph, store: Store, group: Sequence[Output], tokenizer: str | None = None
) -> PageContext:
    title = f"{graph.recipe.name}: {_title(group)}"
    return PageContext(title, graph, _finder(graph, store), tokenizer, progress_bar(), note)


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
    found = False
    for title, manifest in manifests.items():
        output, view = (
            output_of(graph.plugins, store, title, manifest),
            view_of(graph.plugins, manifest),
        )
        records = view.records(output, detail, _context(graph, store, [output]))
        found = found or records is not None
        for record in islice(records or (), most):
            if jsonl:
                print_json(record)
                continue
            console = stdout()
            for label, text in view.record_lines(record):
                print_labelled(console, label, text)
            console.print()
    if not found:
        raise UsageError(
            f"{', '.join(manifests)} has no wrong answers: it isn't an evaluator's output",
            where="--wrong",
            fix="name an evaluator",
        )


def note(text: str) -> None:
    """Print a note about a page."""
    click.echo(f"note: {text}", err=True)


def progress_bar() -> Callable[[str, int, int], None]:
    """Prints the progress of a page on a terminal."""
    quiet = not is_terminal(sys.stderr)

    def progress(what: str, done: int, total: int) -> None:
        if not quiet:
            count = f", {done:,} of {total:,}" if total else ""
            click.echo(f"\r\x1b[2K{what}{count}", nl=False, err=True)

    return progress


def _finder(graph: Graph, store: Store) -> Callable[[str], Artifact | None]:
    """Finds a built artifact by its name in the recipe."""

    def find(name: str) -> Artifact | None:
        step, _, output = name.partition(".")
        plans = make_plan(Planner(graph.select([step]), store), without_files=True)
        result = next((p.result for p in plans if p.node.name == step), None)
        if result is None:
            return None
        manifest = result.outputs.get(output) or next(iter(result.outputs.values()))
        return store.artifact(manifest)

    return find


def _no_page(graph: Graph, store: Store, outputs: Sequence[Output]) -> UsageError:
    """The error for outputs without a page. Names the built steps that have one."""
    asked = {output.title.partition(".")[0] for output in outputs}
    plans = make_plan(Planner(graph, store), without_files=True)
    named = [
        plan.node.name
        for plan in plans
        if plan.node.name not in asked
        and plan.result is not None
        and any(view_of(graph.plugins, m).has_page(m) for m in plan.result.outputs.values())
    ]
    return UsageError(
        f"{', '.join(o.title for o in outputs)} has no page",
        where="--html",
        fix=f"these steps have one: {', '.join(named)}" if named else None,
    )


def _file(graph: Graph, html: str, name: str) -> Path:
    """The path of a page: as `--html` names it, otherwise next to the outputs."""
    from finery.builder.outputs import build_folder

    if not html:
        return build_folder(graph.recipe) / name
    return Path(html) / name if Path(html).is_dir() else Path(html)


def write(path: Path, text: str, store: Path) -> Path:
    """Write a page.

    Raises `UsageError` inside the store, in place of a file that isn't a page, such as a recipe,
    and where writing fails.
    """
    if path.resolve().is_relative_to(store.resolve()):
        raise UsageError(
            f"{shown(path)} is in the output of a step, which is read-only",
            where="--html",
            fix="choose a file in another folder",
        )
    try:
        if _is_something_else(path):
            raise UsageError(
                f"{shown(path)} is not a page, and finery doesn't overwrite it",
                where="--html",
                fix="name an .html file: the word after --html is the page, not the recipe",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"can't write {shown(path)}: {error.strerror}",
            where="--html",
            fix="choose another file",
        ) from error
    return path


def _is_something_else(path: Path) -> bool:
    """Whether there is a file that isn't an HTML page."""
    if path.suffix.lower() in (".html", ".htm") or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(100).lstrip()
    return bool(start) and not start.startswith(b"<")
