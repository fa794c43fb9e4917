"""`finery report`: a build as an HTML page for a colleague, or as Markdown or JUnit XML for CI."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from finery.cli.console import print_result
from finery.cli.options import json_option, matrix_option, recipe_words
from finery.errors import UsageError
from finery.util.paths import shown

SUFFIXES = {"html": ".html", "markdown": ".md", "junit": ".xml"}
"""Format → suffix of its file."""
WAIT_SECONDS, RELOAD_SECONDS = 2.0, 5
"""How often `--watch` checks the build, and how often browsers reload the page."""

if TYPE_CHECKING:
    from finery.builder.runs import Run
    from finery.report.page import Reported
    from finery.views.view import Context


@click.command("report")
@recipe_words
@matrix_option
@click.option(
    "--format", "form", type=click.Choice(list(SUFFIXES)), default="html", show_default=True,
    help="An HTML page, Markdown for a pull request, or JUnit XML: a test case for each step and "
    "each `require:`.",
)  # fmt: skip
@click.option(
    "--output", "-o", "--html", "file", type=click.Path(path_type=Path), metavar="FILE",
    help="The file to write; - for stdout. [default: build/<recipe>/report.html (.md, .xml), of a "
    "build of the past report-<id>.html]",
)  # fmt: skip
@click.option(
    "--against", metavar="BUILD",
    help="With --format markdown: also say what changed since this build, which `finery diff` can "
    "compare: a git revision, an id of `finery runs`, `previous`, ….",
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
    recipe: Path, overrides: tuple[str, ...], form: str, file: Path | None, against: str | None,
    run_id: str | None, watch: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write a page about a build: verdict, steps, rows, curves, scores, answers, origin.

    The page is one file that loads nothing. Send it to anybody. The Markdown has the verdict, the
    scores, the requirements and the steps, without text of rows.
    """
    if against is not None and form != "markdown":
        raise UsageError(
            f"a report as {form} compares no builds", where="--against", fix="--format markdown"
        )
    if watch and run_id is not None:
        raise UsageError(
            "a build of the past doesn't change", where="--watch", fix="remove --watch or --run"
        )
    if file == Path("-") and (watch or as_json):
        raise UsageError(
            "the report itself goes to stdout", where="--output -", fix="remove --watch and --json"
        )
    from finery.report.page import in_short

    reported = gather(recipe, overrides, run_id)
    if file == Path("-"):
        click.echo(render(reported, form, against), nl=False)
        return
    path = _write(reported, form, file, against)
    while watch and _goes_on(reported):
        before = _state(reported)
        click.echo(f"report: {shown(path)}, {before}", err=True)
        while _goes_on(reported) and _state(reported) == before:
            time.sleep(WAIT_SECONDS)
            reported.store.close()
            reported = gather(recipe, overrides)
        _write(reported, form, file, against)
    states = {step.node.name: step.state for step in reported.steps}
    run = reported.run.id if reported.run else None
    data = {form: str(path), "bytes": path.stat().st_size, "run": run, "steps": states}
    if as_json:
        verdict, _ = in_short(reported, _context(reported, form))
        data["verdict"] = verdict and verdict._asdict()
    print_result(data, f"report: {shown(path)}", as_json=as_json)


def _write(reported: "Reported", form: str, file: Path | None, against: str | None) -> Path:
    """Write the report where `--output` says, by default into the recipe's folder in `build/`."""
    from finery.builder.outputs import build_folder
    from finery.cli.views import write_page

    past = reported.run.id if reported.is_past and reported.run else ""
    name = f"report-{past}{SUFFIXES[form]}" if past else f"report{SUFFIXES[form]}"
    target = file or build_folder(reported.graph.recipe) / name
    if target.is_dir():
        target = target / name
    return write_page(target, render(reported, form, against), reported.store.root, "--output")


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


def render(reported: "Reported", form: str = "html", against: str | None = None) -> str:
    """The report in a format of `--format`. against: what `--against` says."""
    from finery.cli.diff_view import Comparison
    from finery.report.page import report_page

    context = _context(reported, form)
    if form == "html":
        seconds = RELOAD_SECONDS if _goes_on(reported) and not reported.is_past else 0
        return report_page(reported, context, reload_seconds=seconds)
    from finery.cli.report_formats import junit_of, markdown_of

    if form == "junit":
        return junit_of(reported)
    compared = None
    if against is not None:
        run = reported.run.id if reported.is_past and reported.run else None
        compared = Comparison(reported.graph, reported.store, against, run)
    return markdown_of(reported, context, compared)


def _context(reported: "Reported", form: str) -> "Context":
    from finery.cli.views import note, progress
    from finery.report.page import built_in
    from finery.views.view import Context

    graph, built = reported.graph, built_in(reported)
    medium: Literal["page", "markdown"] = "page" if form == "html" else "markdown"
    return Context(
        graph.recipe.name, graph, built.get, None, progress, note, scope="build", medium=medium
    )
