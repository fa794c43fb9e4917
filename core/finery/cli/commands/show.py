"""`finery show STEP`: an artifact as a person would want to see it."""

from pathlib import Path
from typing import Any

import click

from finery.cli.console import print_json
from finery.cli.options import json_option, recipe_option, set_option
from finery.errors import UsageError
from finery.util.paths import shown
from finery.util.text import did_you_mean


@click.command("show")
@click.argument("step", required=False, metavar="[STEP[.OUTPUT]]")
@recipe_option
@set_option
@click.option(
    "--rows",
    "-n",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Rows of a dataset, or wrong predictions of an evaluator, to print.",
)
@click.option(
    "--html",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    help="Write a page: of data sets a report, of a training its curves. [default FILE: beside the "
    "outputs, build/<recipe>/<step>-report.html or -curve.html]",
)
@click.option(
    "--tokenizer",
    metavar="MODEL",
    help="The step whose tokens a data set's page tells lengths in; none: characters. [default: "
    "the model that is trained on the rows, if it is built]",
)
@click.option(
    "--dropped", is_flag=True, help="Every row that a data step dropped, or found fault with."
)
@click.option(
    "--row",
    "row_id",
    metavar="ID",
    help="The story of a row, from its source to the answers it got; the beginning of its id will "
    "do. With STEP, only what leads there.",
)
@json_option
def command(
    step: str | None,
    recipe: Path,
    overrides: tuple[str, ...],
    rows: int,
    html: str | None,
    tokenizer: str | None,
    dropped: bool,
    row_id: str | None,
    as_json: bool,
) -> None:
    """Show what STEP made: rows, scores, a model's size and curves, a bundle's files.

    Without STEP: all.
    """
    from finery.build.project import open_graph, open_store, result_of

    store = open_store(recipe)
    graph = open_graph(recipe, overrides, store)
    if step is None and html is not None:
        raise _no_step(html, list(graph.nodes))
    if step is None and row_id is None:
        _overview(graph, store, as_json)
        return
    name, _, output = (step or "").partition(".")
    if step is not None and name not in graph.nodes:
        raise UsageError(
            f"the recipe has no step '{name}'", where="STEP", fix=did_you_mean(name, graph.nodes)
        )
    if output and output not in graph.nodes[name].outputs:
        named = [o for o in graph.nodes[name].outputs if o]
        raise UsageError(
            f"step '{name}' has no output '{output}'",
            where="STEP",
            fix=did_you_mean(output, named) or f"write {name}",
        )
    if row_id is not None:
        _show_row(graph, store, row_id, name, output, html is not None, as_json)
        return
    result, fresh = result_of(graph, store, name)
    if not fresh:
        click.secho(
            "not up to date: this is the last build's (see `finery plan`)\n", fg="yellow", err=True
        )
    chosen = {output: result.outputs[output]} if output else _distinct(result.outputs)
    titles = {f"{name}.{made}" if made else name: manifest for made, manifest in chosen.items()}
    pages = _pages(graph, store, name, titles, html, tokenizer)
    for title, manifest in titles.items():
        _show_one(store, title, manifest, rows, dropped, as_json, pages.get(title))
    for page in [] if as_json else dict.fromkeys(pages.values()):
        click.echo(f"page: {shown(page)}")


def _pages(
    graph: Any, store: Any, step: str, titles: Any, html: str | None, tokenizer: str | None
) -> dict[str, Path]:
    if html is None:
        if tokenizer is not None:
            raise UsageError(
                "--tokenizer is for a page", where="--tokenizer", fix=f"finery show {step} --html"
            )
        return {}
    from finery.cli.pages import write_pages

    return write_pages(graph, store, step, titles, html, tokenizer)


def _show_one(
    store: Any,
    title: str,
    manifest: Any,
    rows: int,
    dropped: bool,
    as_json: bool,
    page: Path | None,
) -> None:
    from finery.cli.views import as_data, show_artifact

    artifact = store.artifact(manifest)
    if as_json:
        html = {"html": str(page)} if page else {}
        print_json({"name": title, **as_data(artifact, manifest, rows, every_drop=dropped), **html})
        return
    show_artifact(title, artifact, manifest, rows, every_drop=dropped)


def _show_row(
    graph: Any, store: Any, row_id: str, name: str, output: str, html: bool, as_json: bool
) -> None:
    from finery.cli.row_view import show_story
    from finery.lineage.story import story_of

    if html:
        raise UsageError("a row's story has no page", where="--html", fix="leave --html out")
    if not row_id:
        raise UsageError("an empty id", where="--row", fix="write the beginning of a row's id")
    story = story_of(graph, store, row_id, step=name, output=output)
    if as_json:
        print_json(story)
    else:
        show_story(story)


def _no_step(html: str, names: list[str]) -> UsageError:
    """The error for `--html` without a step, which a step behind it may be taken for."""
    step = html if html in names else "STEP"
    return UsageError(
        "--html takes a step whose rows or curves to show",
        fix=f"finery show {step} --html",
    )


def _distinct(outputs: Any) -> Any:
    """Without the nameless output where it only repeats a named one."""
    return outputs if set(outputs) == {""} else {n: m for n, m in outputs.items() if n}


def _overview(graph: Any, store: Any, as_json: bool) -> None:
    from finery.build.plan import Planner, make_plan
    from finery.cli.console import size
    from finery.cli.tables import print_scores

    built = {}
    width = max(map(len, graph.nodes))
    for plan in make_plan(Planner(graph, store), without_files=True):
        name = plan.node.name
        if plan.result is None:
            text = click.style("not built" if plan.state == "run" else plan.reason, dim=True)
            if as_json:
                print_json({"step": name, "use": plan.node.use, "state": plan.state})
            else:
                click.echo(f"{name:<{width}}  {text}")
            continue
        built[name] = plan.result.outputs
        outputs = _distinct(plan.result.outputs)
        if as_json:
            kinds = {
                n: {"kind": m.kind, "bytes": m.size(), "digest": m.digest}
                for n, m in outputs.items()
            }
            print_json({"step": name, "use": plan.node.use, "state": plan.state, "outputs": kinds})
        else:
            parts = [
                f"{f'{n}: ' if n else ''}{m.kind} {_brief(m)} {size(m.size())}"
                for n, m in outputs.items()
            ]
            text = ", ".join(" ".join(p.split()) for p in parts)
            click.echo(f"{name:<{width}}  {click.style(text, dim=True)}")
    if not as_json:
        print_scores(store.root, built)


def _brief(manifest: Any) -> str:
    """A model's format, a dataset's rows."""
    if "format" in manifest.meta:
        return str(manifest.meta["format"])
    return f"{manifest.meta['rows']} rows," if "rows" in manifest.meta else ""
