"""`finery show STEP --html` and `--wrong`, which may need several outputs."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from finery.artifact.manifest import Manifest
from finery.builder.outputs import build_folder
from finery.cli.console import print_json, print_progress
from finery.cli.views import context_of, linked_output, stdout
from finery.compare.outputs import output_of, view_of
from finery.errors import UsageError
from finery.recipe.graph import Graph
from finery.store.database import Store
from finery.util.paths import shown
from finery.views.html import render_sections
from finery.views.terminal import print_fields
from finery.views.view import Detail, Output, View, page_of, sections_of


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
        paths |= dict.fromkeys((o.title for o in group), write(path, page, store.root))
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


def write(path: Path, text: str, store: Path, option: str = "--html") -> Path:
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
