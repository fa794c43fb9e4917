"""The note `judges-itself`: a judge that is a judged model, or the base of one."""

from collections.abc import Iterator

from finery import About, Graph, Node, Note, base_models, sources_of
from finery import Model as ModelKind
from finery_judge.judging import Judging

NAME = "judges-itself"
ABOUT = {
    NAME: About(
        when="the `judge` of an evaluator is one of the judged models, or a base of one",
        why="Models prefer answers that read like their own (Panickssery et al. 2024, "
        "https://arxiv.org/abs/2404.13076). A score of a judge for itself, or for what was trained "
        "from it, is too high by an unknown amount.",
    )
}


def notes_on(graph: Graph) -> list[Note]:
    """A note for each evaluator whose judge judges itself."""
    return [note for node in graph.nodes.values() for note in _notes(graph, node)]


def _notes(graph: Graph, node: Node) -> Iterator[Note]:
    if not isinstance(node.step, Judging):
        return
    sources = sources_of(node, ModelKind)
    judges = {source.step for source in sources if source.field == "judge"}
    for source in sources:
        if source.field != "models":
            continue
        under = judges & _bases(graph, source.step)
        for judge in under:
            relation = "itself" if judge == source.step else f"{source.ref}, which is made from it"
            yield Note(
                name=NAME,
                text=f"in {node.name}, {judge} judges {relation}",
                fix="name another model as `judge`, best a larger one of another family",
                step=node.name,
                place=(*node.place, "judge"),
            )


def _bases(graph: Graph, step: str) -> set[str]:
    """A step and all steps that its model is made from."""
    found: set[str] = set()
    waiting = [step]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        node = graph.nodes[name]
        if sources_of(node, ModelKind):
            waiting += [source.step for source in base_models(node)]
    return found
