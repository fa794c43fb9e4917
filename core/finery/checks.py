"""What `finery check` looks at beyond the schema and the graph."""

import os

from finery.errors import FineryError
from finery.graph import Graph
from finery.outside import find_files
from finery.schema import raise_all
from finery.step import files_of


def advice(graph: Graph) -> list[str]:
    """Plugins' advice on a recipe, after its files were found.

    Raises what is wrong with positions, all at once.
    """
    raise_all(check_files(graph))
    given = graph.plugins.hook.finery_checks(recipe=graph.recipe)
    return [*_unset_variables(graph), *(note for notes in given for note in notes)]


def _unset_variables(graph: Graph) -> list[str]:
    """A note for each environment variable that a step takes and that isn't set here."""
    return [
        f"step '{node.name}' takes the environment variable {name}, which isn't set here"
        for node in graph.nodes.values()
        for name in node.env
        if name not in os.environ
    ]


def check_files(graph: Graph) -> list[FineryError]:
    """An error for each setting that names outside files which aren't there."""
    errors: list[FineryError] = []
    for node in graph.nodes.values():
        for name, files in files_of(node.step).items():
            try:
                find_files(graph.recipe, (*node.place, name), files)
            except FineryError as error:
                errors.append(error)
    return errors
