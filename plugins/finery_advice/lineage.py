"""The origin of a recipe's models and rows, according to its graph."""

from collections.abc import Iterator

from finery import Graph, Source

Chain = list[tuple[str, str]]
"""(step, output) of some rows, then of the rows they derive from, and so on to the origin."""


def trained_under(graph: Graph, name: str) -> set[str]:
    """The trainings among `Graph.models_under`."""
    return {step for step in graph.models_under(name) if graph.nodes[step].trains}


def chains(graph: Graph, step: str, output: str) -> Iterator[Chain]:
    """Every path from some rows back to a step that reads them from outside."""
    before = graph.nodes[step].row_sources
    if not before:
        yield [(step, output)]
    for source in before:
        for rest in chains(graph, source.step, source.output):
            yield [(step, output), *rest]


def overlap(graph: Graph, one: Source, other: Source) -> str | None:
    """The step that two inputs both get rows from, if no split separates them."""
    for first in chains(graph, one.step, one.output):
        for second in chains(graph, other.step, other.output):
            if _same_origin(graph, first[-1][0], second[-1][0]) and not (
                _parted(first, second) or _cleaned(graph, first, second)
            ):
                return first[-1][0]
    return None


def _same_origin(graph: Graph, one: str, other: str) -> bool:
    """Whether these are one step, or two that read the same file."""
    files, others = (set(graph.nodes[step].file_patterns) for step in (one, other))
    return one == other or not files.isdisjoint(others)


def _cleaned(graph: Graph, one: Chain, other: Chain) -> bool:
    """Whether a step on one path drops rows that are on the other."""
    steps = [graph.nodes[step] for step, _ in one]
    compared = {(s.step, s.output) for n in steps for s in n.sources if s.role == "compare"}
    return not compared.isdisjoint(other)


def _parted(one: Chain, other: Chain) -> bool:
    """Whether the two use different outputs of a step, which share no rows."""
    outputs = dict(one)
    return any(step in outputs and outputs[step] != output for step, output in other)
