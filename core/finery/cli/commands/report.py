"""`finery report`: one HTML page about a build, for a colleague who has nothing installed."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finery.cli.console import print_json
from finery.cli.options import json_option, matrix_option, recipe_words
from finery.errors import UsageError
from finery.util.paths import shown

NAME = "report.html"
WAIT_SECONDS, RELOAD_SECONDS = 2.0, 5
"""How often `--watch` checks the build, and how often browsers reload the page."""

if TYPE_CHECKING:
    from finery.builder.runs import Run
    from finery.report.page import Reported


@click.command("report")
@recipe_words
@matrix_option
@click.option(
    "--html", "file", type=click.Path(path_type=Path), metavar="FILE",
    help="The file to write. [default: build/<recipe>/report.html, of a build of the past "
    "report-<id>.html]",
)  # fmt: skip
@click.option(
    "--run", "run_id", metavar="ID",
    help="A build of the past: an id of `finery runs`, `last` or `previous`. [default: the recipe "
    "as it is now]",
)  # fmt: skip
@click.option(
    "--watch", is_flag=True,
    help="Write the page again and again while a build runs; browsers load it anew.",
)  # fmt: skip
@json_option
def command(
    recipe: Path, overrides: tuple[str, ...], file: Path | None, run_id: str | None, watch: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a page about a build: verdict, steps, rows, curves, scores, answers, origin.

    The page is one file that loads nothing. Send it to anybody.
    """
    if watch and run_id is not None:
        raise UsageError(
            "a build of the past doesn't change", where="--watch", fix="remove --watch or --run"
        )
    reported = gather(recipe, overrides, run_id)
    path = _write(reported, file)
    while watch and _goes_on(reported):
        before = _state(reported)
        click.echo(f"report: {shown(path)}, {before}", err=True)
        while _goes_on(reported) and _state(reported) == before:
            time.sleep(WAIT_SECONDS)
            reported.store.close()
            reported = gather(recipe, overrides)
        _write(reported, file)
    if as_json:
        states = {step.node.name: step.state for step in reported.steps}
        run = reported.run.id if reported.run else None
        print_json({"html": str(path), "bytes": path.stat().st_size, "run": run, "steps": states})
    else:
        click.echo(f"report: {shown(path)}")


def _write(reported: "Reported", file: Path | None) -> Path:
    """Write the page where `--html` says, by default into the recipe's folder under `build/`."""
    from finery.builder.outputs import build_folder
    from finery.cli.pages import write

    past = reported.run.id if reported.is_past and reported.run else ""
    name = f"report-{past}.html" if past else NAME
    target = file or build_folder(reported.graph.recipe) / name
    if target.is_dir():
        target = target / name
    seconds = RELOAD_SECONDS if _goes_on(reported) and not reported.is_past else 0
    return write(target, render(reported, reload_seconds=seconds), reported.store.root)


def _goes_on(reported: "Reported") -> bool:
    return reported.run is not None and reported.run.ending == "running"


def _state(reported: "Reported") -> str:
    """A one-line summary of a running build."""
    from finery.report.steps import counts

    running = [f"{s.node.name} {s.detail}" for s in reported.steps if s.state == "running"]
    return "; ".join([", ".join(counts(reported.steps)), *running])


def gather(recipe: Path, overrides: tuple[str, ...] = (), run_id: str | None = None) -> "Reported":
    """What a report of a recipe is about, now or in a run of the past."""
    from finery.builder.project import Project
    from finery.builder.runs import find_run, runs_of
    from finery.report.page import Reported
    from finery.report.steps import steps_now, steps_of_run
    from finery.report.variants import variants_of

    project = Project(recipe, overrides)
    graph, store = project.graph, project.store
    if run_id is not None:
        run: Run | None = (past := find_run(store.root, graph.recipe, run_id))
        steps = steps_of_run(graph, store, past)
    else:
        run = next(runs_of(store.root, graph.recipe), None)
        steps = steps_now(graph, store, run)
    variants = variants_of(graph, store, steps)
    return Reported(graph, store, steps, run, is_past=run_id is not None, variants=variants)


def render(reported: "Reported", *, reload_seconds: int = 0) -> str:
    """The page as HTML."""
    from finery.cli.pages import note, progress
    from finery.report.page import built_in, report_page
    from finery.views.view import PageContext

    graph, built = reported.graph, built_in(reported)
    context = PageContext(graph.recipe.name, graph, built.get, None, progress, note)
    return report_page(reported, context, reload_seconds=reload_seconds)
