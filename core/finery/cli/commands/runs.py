"""`finery runs`: the builds of a recipe."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.cli.console import print_json, print_wrapped
from finery.cli.options import json_option, recipe_words
from finery.util.text import counted, duration, in_dollars, percent, some_of, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from finery.builder.runs import Run
    from finery.compare.outputs import FirstMetric

MOST = 8
"""Evaluators of a build that are listed, and models of each."""
OPTIONAL = ("reason", "dollars", "error")
"""Facts about a step that most don't have."""
COLOURS = {"ok": "green", "failed": "red", "interrupted": "yellow", "killed": "red"}


@click.command("runs")
@recipe_words
@click.option(
    "--number", "-n", type=click.IntRange(1), default=20, show_default=True,
    help="Number of builds to print.",
)  # fmt: skip
@json_option
def command(recipe: Path, number: int, as_json: bool) -> None:
    """List the builds of RECIPE, newest first: when, which revision, what ran, how it ended.

    A build with nothing to do leaves no record, so it isn't listed, unless the one before failed.
    """
    from finery.builder.project import open_store
    from finery.builder.runs import runs_of
    from finery.compare.outputs import first_metrics
    from finery.recipe.document import load

    store, loaded = open_store(recipe), load(recipe)
    runs = list(islice(runs_of(store.root, loaded), number))
    for run in runs:
        scores = first_metrics(store, run)
        if as_json:
            print_json(run_data(run, scores))
        else:
            _print(run, scores)
    if not runs and not as_json:
        click.echo(f"no builds of {loaded.name} are recorded yet: finery build {loaded.argument}")


def run_data(run: "Run", scores: "Mapping[str, FirstMetric]") -> dict[str, Any]:
    """A run as plain data, for `--json`."""
    revision = run.revision
    return {
        "run": run.id,
        "started": run.started,
        "ended": run.ended or None,
        "ending": run.ending,
        "seconds": run.seconds,
        "recipe": run.recipe,
        "revision": None if revision is None else revision._asdict(),
        "overrides": list(run.overrides),
        "finery": run.context.get("finery"),
        "machine": run.context.get("machine"),
        "steps": [
            {"step": s.name, "use": s.use, "state": s.state, "key": s.key, "seconds": s.seconds}
            | {name: value for name in OPTIONAL if (value := getattr(s, name))}
            for s in run.steps.values()
        ],
        "metrics": {
            step: {"metric": line.metric, "values": line.values, "cleaned": line.is_cleaned}
            for step, line in scores.items()
        },
    }


def when(run: "Run") -> str:
    """When a run began, in local time: `2026-11-26 21:54`."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(run.started).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return run.started


def ending(run: "Run") -> str:
    """How a run ended, in words: `ok after 42 s`, `killed`, `still running`."""
    if run.ending == "running":
        return "still running"
    took = "" if run.seconds is None else f" after {duration(run.seconds)}"
    return f"{run.ending}{took}"


def _print(run: "Run", scores: "Mapping[str, FirstMetric]") -> None:
    revision = f"  {run.revision}" if run.revision else ""
    colour = COLOURS.get(run.ending, "cyan")
    click.echo(
        f"{click.style(run.id, bold=True)}  {when(run)}{revision}  "
        f"{click.style(ending(run), fg=colour)}"
    )
    for label, text in _lines(run, scores):
        print_wrapped(f"  {click.style(label, dim=True)} ", text, hang=4)


def _lines(run: "Run", scores: "Mapping[str, FirstMetric]") -> "Iterator[tuple[str, str]]":
    """(label, text) of each line about a run."""
    cached = run.named("cached")
    dollars = sum(step.dollars for step in run.steps.values())
    cost = f"; cost {in_dollars(dollars)}" if dollars else ""
    yield "ran", f"{', '.join(run.named('ran')) or 'nothing'} ({len(cached)} cached){cost}"
    if accepted := [
        f"{name} ({run.steps[name].reason})" for name in cached if run.steps[name].reason
    ]:
        yield "with changes", some_of(accepted)
    if run.overrides:
        yield "with", " ".join(run.overrides)
    for name in run.named("failed"):
        yield "failed", f"{name}: {run.steps[name].error.get('what', '')}"
    unfinished = run.named("blocked", "waiting", "running")
    if unfinished:
        yield "unfinished", ", ".join(unfinished)
    for step, line in [*scores.items()][:MOST]:
        named = [
            f"{model} {percent(value) if line.is_share and 0 <= value <= 1 else f'{value:.4g}'}"
            for model, value in line.values.items()
        ]
        omitted = [f"and {counted(len(named) - MOST, 'model')} more"] if len(named) > MOST else []
        text = f"{line.metric}: {', '.join([*named[:MOST], *omitted])}"
        yield step, visible("its scores are no longer in the store" if line.is_cleaned else text)
    if len(scores) > MOST:
        yield "and", f"{counted(len(scores) - MOST, 'evaluator')} more (--json)"
