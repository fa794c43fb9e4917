"""The table of a matrix: a row for each variant, best first."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from finery.artifact.manifest import Result
from finery.cli.console import print_json
from finery.compare.variants import choice_in_words, choice_of, lines_of, remarks_on, table_of
from finery.views.parts import Part, Text
from finery.views.terminal import print_part

if TYPE_CHECKING:
    from rich.console import Console

    from finery.recipe.graph import Graph
    from finery.store.database import Store


def print_matrix(
    console: "Console",
    graph: "Graph",
    store: "Store",
    results: "Mapping[str, Result | None]",
    failed: Mapping[str, str] | None = None,
) -> None:
    """Print the table. failed: step → `failed` or `blocked`, in a build."""
    lines = lines_of(graph, store, results, failed or {})
    choice = choice_of(graph, results)
    parts: list[Part] = [table_of(graph, lines, {}), *(Text(t, "soft") for t in remarks_on(lines))]
    for part in [*parts, *([Text(choice_in_words(choice))] if choice is not None else [])]:
        print_part(console, part)


def print_matrix_data(
    graph: "Graph", store: "Store", results: "Mapping[str, Result | None]"
) -> None:
    """Print a JSON line for each variant, best first."""
    for line in lines_of(graph, store, results, {}):
        scores = {name: score.data() for name, score in line.scores.items()}
        print_json({
            "variant": line.name, "axes": line.axes, "scores": scores, "chosen": line.chosen,
        })  # fmt: skip
