"""`finery rehearse`: run a recipe to its end in about a minute, before it is built."""

import os
import signal
import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.cli.console import print_error, print_json, print_wrapped
from finery.cli.options import json_option, matrix_option, recipe_words
from finery.util.text import counted, duration, in_dollars, rough_duration

if TYPE_CHECKING:
    from finery.preflight.rehearsal import Rehearsed
    from finery.recipe.graph import Graph

INTERRUPTED_CODE = 130


@click.command("rehearse")
@recipe_words
@matrix_option
@click.option(
    "--weights", is_flag=True,
    help="Use the real weights of models. [default: random ones, in two layers of small width]",
)  # fmt: skip
@click.option("--offline", is_flag=True, help="Ask no paid model. [default: each is asked once]")
@json_option
def command(
    recipe: Path, overrides: tuple[str, ...], weights: bool, offline: bool, as_json: bool
) -> int:  # fmt: skip
    """Run all steps of RECIPE to the end with few rows and small models, in about a minute.

    What fails late in a build fails here first: an export, an evaluator, a server, a missing key.
    Scores are read, but not held against `require`. The store that it uses is thrown away.
    """
    from finery.builder.examine import Examiner
    from finery.builder.project import open_graph
    from finery.cli.console import print_progress
    from finery.cli.progress import listener
    from finery.plugin.forecasts import Forecasts
    from finery.preflight.rehearsal import record_rehearsal, rehearse
    from finery.recipe.validate import raise_all
    from finery.step.forecast import value_of
    from finery.step.resources import Rehearsing

    graph = open_graph(recipe, overrides, has_releases=False)
    raise_all(Examiner(graph).errors(print_progress))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    if offline:  # steps start without the keys of models that aren't asked
        forecasts = map(Forecasts(graph).forecast, graph.nodes.values())
        runtimes = [value_of(forecast.runtime) for forecast in forecasts]
        os.environ |= {name: "offline" for runtime in runtimes for name in runtime.get("env", ())}
    view: Any = nullcontext() if as_json else closing(listener(sys.stderr, graph))
    try:
        with view as shown:
            rehearsed = rehearse(graph, Rehearsing(weights, offline), shown)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing is left of the rehearsal", err=True)
        return INTERRUPTED_CODE
    if not rehearsed.errors:
        record_rehearsal(graph.recipe)
    _print_json(graph, rehearsed) if as_json else _print(graph, rehearsed)
    return 1 if rehearsed.errors else 0


def _print(graph: "Graph", rehearsed: "Rehearsed") -> None:
    for name, texts in rehearsed.omitted.items():
        head = click.style("not rehearsed: ", fg="yellow") + f"{name}: "
        print_wrapped(head, ", ".join(texts), hang=2)
    for request in rehearsed.requests:
        dollars, tokens = request["dollars"], counted(request["tokens"], "token")
        price = "its price is unknown" if dollars is None else in_dollars(dollars)
        click.echo(f"one request to {request['model']}: {tokens}, {price}")
    for name, error in rehearsed.errors.items():
        error.details.insert(0, f"step '{name}' ({graph.nodes[name].use})")
        if seconds := rehearsed.lost[name]:
            time = rough_duration(seconds)
            error.details.append(f"by the estimates, a build would fail here after {time}")
        print_error(error)
    total = len(graph.nodes) + len(graph.unreleased)
    text = f"{len(rehearsed.steps)} of {counted(total, 'step')} rehearsed in "
    text += duration(rehearsed.seconds)
    text += f", {len(rehearsed.errors)} failed" if rehearsed.errors else ""
    colour = "red" if rehearsed.errors else "yellow" if rehearsed.omitted else "green"
    click.secho(text, fg=colour, err=True)


def _print_json(graph: "Graph", rehearsed: "Rehearsed") -> None:
    errors = [
        {"step": name, "use": graph.nodes[name].use, "lost_seconds": rehearsed.lost[name],
         "error": error.to_dict()}
        for name, error in rehearsed.errors.items()
    ]  # fmt: skip
    print_json({
        "recipe": graph.recipe.name, "ok": not errors, "seconds": rehearsed.seconds,
        "rehearsed": rehearsed.steps, "not_rehearsed": rehearsed.omitted,
        "requests": rehearsed.requests, "errors": errors,
    })  # fmt: skip
