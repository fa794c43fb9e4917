"""`finery check`: find mistakes before anything runs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finery.cli.console import print_json
from finery.cli.options import json_option, matrix_option, recipe_words
from finery.util.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finery.recipe.graph import Graph
    from finery.step.forecast import Note


@click.command("check")
@recipe_words
@matrix_option
@click.option(
    "--deep", is_flag=True, help="Also build lightweight steps and validate all training rows."
)
@click.option(
    "--rows", "-n", type=click.IntRange(0), default=3, show_default=True,
    help="With --deep: how many rows of each data set to show, with their loss marked.",
)  # fmt: skip
@json_option
def command(
    recipe: Path, overrides: tuple[str, ...], deep: bool, rows: int, as_json: bool
) -> int:  # fmt: skip
    """Check RECIPE: its YAML, settings, references, files and their first rows.

    Runs no step and uses no network, except with --deep (see docs/concepts/proof.md).

    Notes are advice, not errors. docs/reference/advice.md lists them and explains how to
    silence them.
    """
    from finery.builder.checks import note_data
    from finery.builder.examine import Examiner
    from finery.builder.project import open_graph, open_recipe
    from finery.cli.console import print_notes, print_progress
    from finery.recipe.editor import refresh_schema
    from finery.recipe.validate import raise_all

    refresh_schema(*open_recipe(recipe))
    graph = open_graph(recipe, overrides)
    raise_all(Examiner(graph).errors(print_progress))
    notes = _notes(graph)
    if as_json:
        data = [note_data(graph, note) for note in notes]
        print_json({"recipe": graph.recipe.name, "steps": len(graph.nodes), "notes": data})
    else:
        print_notes(graph, notes)
        steps = counted(len(graph.nodes), "step")
        click.secho(f"{graph.recipe.path} is valid: {steps}", fg="green")
    if not deep:
        return 0
    from finery.builder.project import open_store
    from finery.cli.deep import check_deeply

    return check_deeply(graph, open_store(recipe), rows, as_json=as_json)


def _notes(graph: "Graph") -> "Sequence[Note]":
    """The notes, also on results in the store, if one exists. A check doesn't create one.

    Raises the same errors as `refuse_shared_folder`.
    """
    from finery.builder.checks import notes_on, results_of
    from finery.util.paths import store_folder

    if not (store_folder(graph.recipe.path) / "finery.db").is_file():
        return notes_on(graph)
    from finery.builder.outputs import refuse_shared_folder
    from finery.builder.plan import Planner, make_plan
    from finery.builder.project import open_store

    store = open_store(graph.recipe.path)
    refuse_shared_folder(graph.recipe, store)
    planner = Planner(graph, store)
    return store.shared.retry_without_lost(
        lambda _: notes_on(graph, results_of(planner, list(make_plan(planner))))
    )
