"""What `finery check` looks at beyond the schema and the graph."""

import os

from finery.errors import FineryError
from finery.graph import Graph
from finery.outside import find_files
from finery.schema import raise_all
from finery.step import Files


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
    """An error for each outside file that isn't there."""
    errors: list[FineryError] = []
    for node in graph.nodes.values():
        for name in type(node.step).__struct_fields__:
            value = getattr(node.step, name)
            if not isinstance(value, Files):
                continue
            try:
                find_files(value, graph.recipe.folder.absolute())
            except FineryError as error:
                errors.append(graph.recipe.error(error.what, (*node.place, name), fix=error.fix))
    return errors
