"""`finery check`: is the recipe right, before anything runs."""

from pathlib import Path

import click

from finery.cli.options import json_option, recipe_argument, set_option
from finery.cli.output import counted, print_json


@click.command("check")
@recipe_argument
@set_option
@json_option
def command(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check RECIPE: its YAML, settings, references and files. Runs nothing, touches no network."""
    from finery.checks import advice
    from finery.project import open_graph

    graph = open_graph(recipe, overrides)
    notes = advice(graph)
    if as_json:
        print_json({"recipe": graph.recipe.name, "steps": len(graph.nodes), "advice": notes})
        return
    for note in notes:
        click.echo(f"{click.style('note:', fg='yellow')} {note}")
    click.secho(f"{graph.recipe.path} is fine: {counted(len(graph.nodes), 'step')}", fg="green")
