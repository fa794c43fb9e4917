"""`finery show STEP --html`: which page a step's outputs have, and where it goes."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from finery.artifact.kinds import Bundle, Dataset, Model
from finery.artifact.manifest import Manifest, Result
from finery.build.plan import Planner, make_plan
from finery.cli.console import is_terminal
from finery.errors import FineryError, UsageError
from finery.plugin.manager import resolve
from finery.recipe.graph import Graph, Node, sources_of
from finery.store.database import Store
from finery.util.paths import shown
from finery.util.text import did_you_mean
from finery_trl.view.curves import CURVE

TOKENIZERS = ("transformers", "gguf", "adapter")
"""Formats of models that have a tokenizer."""
NONE = "none"


def write_pages(
    graph: Graph,
    store: Store,
    step: str,
    titles: Mapping[str, Manifest],
    html: str,
    tokenizer: str | None = None,
) -> dict[str, Path]:
    """Write the pages of a step's outputs; title of an output → the page that it is on.

    html: what `--html` names, a file or a folder; empty: beside the outputs. tokenizer: the model
    whose tokens lengths of rows are told in. A training has a page for each curve, data sets have
    one together; a bundle that is a page is copied.
    """
    trained = {title: m for title, m in titles.items() if CURVE in m.files}
    if trained:
        return _curves(graph, store, trained, html)
    made = {title: m for title, m in titles.items() if m.kind == Bundle.kind and _html_of(m)}
    if made:
        return _copies(graph, store, made, html)
    kinds = {m.kind for m in titles.values()} & set(graph.plugins.pages)
    if not kinds:
        raise _no_page(graph, titles)
    kind = min(kinds)
    chosen = {title: m for title, m in titles.items() if m.kind == kind}
    title = next(iter(chosen)) if len(chosen) == 1 else step
    text = _page_of(graph, store, kind, title, chosen, tokenizer)
    path = write(_file(graph, html, f"{title}-report.html"), text, store.root)
    return dict.fromkeys(chosen, path)


def _curves(
    graph: Graph, store: Store, trained: Mapping[str, Manifest], html: str
) -> dict[str, Path]:
    from finery.cli.curve_page import page

    if len(trained) > 1 and html:
        raise UsageError(
            "several outputs have a training curve, and a page shows one",
            where="--html",
            fix=f"name one: finery show {next(iter(trained))} --html {html}",
        )
    made = {}
    for title, manifest in trained.items():
        text = page(f"{graph.recipe.name}: {title}", store.artifact(manifest), manifest)
        made[title] = write(_file(graph, html, f"{title}-curve.html"), text, store.root)
    return made


def _html_of(manifest: Manifest) -> str | None:
    """The page that a bundle is, if it is one."""
    found = [name for name in manifest.files if name.endswith(".html") and "/" not in name]
    return found[0] if len(found) == 1 else None


def _copies(graph: Graph, store: Store, made: Mapping[str, Manifest], html: str) -> dict[str, Path]:
    """Copy pages out of the store: browsers take the links in `build/` for text."""
    written = {}
    for title, manifest in made.items():
        text = store.artifact(manifest).file(_html_of(manifest) or "").read_text(encoding="utf-8")
        written[title] = write(_file(graph, html, f"{title}.html"), text, store.root)
    return written


def _no_page(graph: Graph, titles: Mapping[str, Manifest]) -> UsageError:
    named = [n for n, node in graph.nodes.items() if node.section in ("data", "generate", "train")]
    return UsageError(
        f"{', '.join(titles)} has neither rows, a training curve, nor a page of its own",
        where="--html",
        fix=f"name a step that has: {', '.join(named)}" if named else None,
    )


def _file(graph: Graph, html: str, name: str) -> Path:
    """Where a page goes: what `--html` names, a file or a folder, else beside the outputs."""
    from finery.build.scheduler import build_folder

    if not html:
        return build_folder(graph) / name
    return Path(html) / name if Path(html).is_dir() else Path(html)


def write(path: Path, text: str, store: Path) -> Path:
    """Write a page. store: where nothing may be written. `UsageError` where that can't be."""
    if path.resolve().is_relative_to(store.resolve()):
        raise UsageError(
            f"{shown(path)} lies in what a step made, which is read-only",
            where="--html",
            fix="name a file elsewhere",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"can't write {shown(path)}: {error.strerror}", where="--html", fix="name another file"
        ) from error
    return path


# -- data sets -----------------------------------------------------------------------------------


def _page_of(
    graph: Graph,
    store: Store,
    kind: str,
    title: str,
    chosen: Mapping[str, Manifest],
    tokenizer: str | None,
) -> str:
    """The page that a plugin makes of some artifacts."""
    reference, plugin = graph.plugins.pages[kind]
    make = resolve(reference, f"the page of a {kind}", plugin)
    artifacts = {name: store.artifact(manifest) for name, manifest in chosen.items()}
    found = f"{graph.recipe.name}: {title}"
    try:
        if tokenizer is not None:
            return str(make(found, artifacts, _named_model(graph, store, tokenizer), _progress()))
        model = _trained_model(graph, store, title.partition(".")[0]) if kind == "Dataset" else None
        try:
            return str(make(found, artifacts, model, _progress()))
        except FineryError as error:
            if model is None:
                raise
            click.echo(f"note: lengths in characters: {error.what}", err=True)
            return str(make(found, artifacts, None, _progress()))
    finally:
        if is_terminal(sys.stderr):
            click.echo("\r\x1b[2K", nl=False, err=True)


def _progress() -> Any:
    """Shows how far a page is, on a terminal."""
    quiet = not is_terminal(sys.stderr)

    def progress(what: str, done: int, total: int) -> None:
        if not quiet:
            click.echo(f"\r\x1b[2K{what}, {done:,} of {total:,}", nl=False, err=True)

    return progress


def _named_model(graph: Graph, store: Store, name: str) -> tuple[str, Model] | None:
    """The model that `--tokenizer` names."""
    if name == NONE:
        return None
    step, _, output = name.partition(".")
    models = [n for n, node in graph.nodes.items() if Model in node.outputs.values()]
    if step not in models:
        raise UsageError(
            f"there is no model '{step}'",
            where="--tokenizer",
            fix=did_you_mean(step, [*models, NONE]),
        )
    found = _built(graph, store, step)
    if found is None:
        raise UsageError(
            f"the model '{step}' isn't built yet",
            where="--tokenizer",
            fix=f"finery build --step {step}",
        )
    manifest = found.outputs.get(output) or next(iter(found.outputs.values()))
    model = store.artifact(manifest)
    assert isinstance(model, Model)
    return name, model


def _trained_model(graph: Graph, store: Store, step: str) -> tuple[str, Model] | None:
    """The model that is trained on a step's rows, or on what is made of them, if it is built."""
    after = {step}
    for node in graph.nodes.values():
        if not after.isdisjoint(s.step for s in sources_of(node, Dataset)):
            if node.section != "train":
                after.add(node.name)
                continue
            for name in _models_under(graph, node):
                result = _built(graph, store, name)
                manifest = next(iter(result.outputs.values())) if result else None
                if manifest is not None and manifest.meta.get("format") in TOKENIZERS:
                    model = store.artifact(manifest)
                    assert isinstance(model, Model)
                    return name, model
    return None


def _models_under(graph: Graph, node: Node) -> Iterator[str]:
    """The steps that make the model under a training, the one at the bottom last."""
    while True:
        below = [s.step for s in sources_of(node, Model)]
        if not below:
            return
        yield below[0]
        node = graph.nodes[below[0]]


def _built(graph: Graph, store: Store, step: str) -> Result | None:
    plans = make_plan(Planner(graph.select([step]), store), without_files=True)
    return next((p.result for p in plans if p.node.name == step), None)
