"""Where the models and rows of a recipe come from, read off its graph."""

from collections.abc import Iterator

from finery import Graph, Model, Node, Source, files_of, row_sources, sources_of

Chain = list[tuple[str, str]]
"""(step, output) of some rows, then of the rows they were made from, and so on to the origin."""


def models_under(graph: Graph, name: str) -> set[str]:
    """A step that makes a model, and all steps whose models it was made from."""
    found, stack = set[str](), [name]
    while stack:
        step = stack.pop()
        if step not in found:
            found.add(step)
            stack += [s.step for s in sources_of(graph.nodes[step], Model)]
    return found


def trained_under(graph: Graph, name: str) -> set[str]:
    """Of `models_under`, the trainings."""
    return {step for step in models_under(graph, name) if graph.nodes[step].section == "train"}


def chains(graph: Graph, step: str, output: str) -> Iterator[Chain]:
    """Every way from some rows back to where they come from outside."""
    before = row_sources(graph.nodes[step])
    if not before:
        yield [(step, output)]
    for source in before:
        for rest in chains(graph, source.step, source.output):
            yield [(step, output), *rest]


def overlap(graph: Graph, one: Source, other: Source) -> str | None:
    """The step that two inputs both get rows from, with no split that keeps them apart."""
    for first in chains(graph, one.step, one.output):
        for second in chains(graph, other.step, other.output):
            if _same_origin(graph, first[-1][0], second[-1][0]) and not (
                _parted(first, second) or _cleaned(graph, first, second)
            ):
                return first[-1][0]
    return None


def _same_origin(graph: Graph, one: str, other: str) -> bool:
    """Whether it is one step, or two that read the same file."""
    return one == other or not _patterns(graph.nodes[one]).isdisjoint(_patterns(graph.nodes[other]))


def _patterns(node: Node) -> set[str]:
    return {pattern for files in files_of(node.step).values() for pattern in files.patterns}


def _cleaned(graph: Graph, one: Chain, other: Chain) -> bool:
    """Whether the one drops what is in the other, by `data.decontaminate`."""
    steps = [graph.nodes[step] for step, _ in one]
    against = {(s.step, s.output) for n in steps for s in n.sources if s.role == "compare"}
    return not against.isdisjoint(other)


def _parted(one: Chain, other: Chain) -> bool:
    """Whether the two take different outputs of a step: rows are in one of them only."""
    outputs = dict(one)
    return any(step in outputs and outputs[step] != output for step, output in other)
