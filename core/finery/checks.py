"""What `finery check` looks at beyond the schema and the graph."""

from finery.errors import FineryError
from finery.graph import Graph
from finery.schema import raise_all
from finery.step import Files
from finery.store import find_files


def advice(graph: Graph) -> list[str]:
    """Plugins' advice on a recipe, after its files were found.

    Raises what is wrong with positions, all at once.
    """
    raise_all(check_files(graph))
    return [
        note for notes in graph.plugins.hook.finery_checks(recipe=graph.recipe) for note in notes
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
