"""The note `no-cheap-baseline`: a trained classifier that nothing cheap is compared with."""

from collections.abc import Callable, Iterator

from finery import (
    About,
    Dataset,
    Graph,
    Model,
    Node,
    Note,
    base_models,
    evaluates,
    sources_of,
    trains,
)

NO_CHEAP_BASELINE = "no-cheap-baseline"
KINDS = {
    NO_CHEAP_BASELINE: About(
        when="an evaluator of labels judges a trained model, and no evaluator of the same rows "
        "judges a cheap baseline such as `baseline.linear`",
        why="A linear model on words trains in seconds and is often better than a fine-tuned "
        "language model with a few hundred rows. A score says little unless you know what such a "
        "model reaches, field by field.",
    )
}


def notes_on_baselines(graph: Graph) -> Iterator[Note]:
    """A note for the first evaluator of some rows that a baseline is missing from."""
    judges = [node for node in graph.nodes.values() if evaluates(node)]
    covered = {ref for node in judges if _models(graph, node, _is_cheap) for ref in _rows(node)}
    for node in judges:
        if type(node.step).__spec__.task != "classification" or covered & set(_rows(node)):
            continue
        trained = _models(graph, node, _is_trained)
        if not trained:
            continue
        covered |= set(_rows(node))
        learned = _learned_rows(graph, trained[0])
        yield Note(
            name=NO_CHEAP_BASELINE,
            text=f"{node.name} compares {trained[0]} with no cheap baseline",
            fix=f"linear: {{use: baseline.linear, rows: {learned}}} under `models`, and add "
            f"`linear` to the models of {node.name}",
            step=node.name,
            place=(*node.place, "models"),
        )


def _rows(node: Node) -> list[str]:
    return [source.ref for source in sources_of(node, Dataset)]


def _models(graph: Graph, judge: Node, wanted: Callable[[Graph, str], bool]) -> list[str]:
    """The models of an evaluator that are as wanted."""
    steps = [source.step for source in sources_of(judge, Model)]
    return [step for step in steps if wanted(graph, step)]


def _is_cheap(graph: Graph, step: str) -> bool:
    """Whether its step type says that it is a baseline (`is_baseline`)."""
    return bool(getattr(type(graph.nodes[step].step), "is_baseline", False))


def _is_trained(graph: Graph, step: str) -> bool:
    """Whether a training is among a model and those that it derives from."""
    return _training(graph, step) is not None


def _training(graph: Graph, step: str) -> Node | None:
    node = graph.nodes[step]
    if trains(node):
        return node
    return next(
        (found for s in base_models(node) if (found := _training(graph, s.step)) is not None), None
    )


def _learned_rows(graph: Graph, step: str) -> str:
    """What the rows of a training are called, as a recipe writes them."""
    node = _training(graph, step)
    refs = [s.ref for s in node.sources if s.role == "train"] if node is not None else []
    return refs[0] if refs else "split.train"
