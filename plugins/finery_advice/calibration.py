"""Notes on rows that a quantisation is calibrated with."""

from collections.abc import Iterator, Mapping

from finery import About, Dataset, Graph, Model, Node, Note, evaluates, sources_of
from finery_advice.lineage import models_under, overlap

CALIBRATION_ROWS = "calibration-rows"
KINDS: Mapping[str, About] = {
    CALIBRATION_ROWS: About(
        when="a file is quantised with the help of rows (`imatrix`) that an evaluator judges it "
        "on, or that no split separates from those",
        why="The file is rounded with the least error on just these rows, so its score on them is "
        "too good.",
    ),
}
"""Name → when and why the note is given."""


def notes_on_calibration(graph: Graph) -> Iterator[Note]:
    """A note for each step that measures activations on rows of its own test."""
    for node in graph.nodes.values():
        for mine in (source for source in node.sources if source.role == "calibrate"):
            for judge in _judges_of(graph, node):
                origins = (overlap(graph, mine, s) for s in sources_of(judge, Dataset))
                if any(origins):
                    yield Note(
                        name=CALIBRATION_ROWS,
                        text=f"{node.name} is calibrated with {mine.ref}, and {judge.name} judges "
                        "it on the same rows",
                        fix="name the rows that the model was trained on, e.g. split.train",
                        step=node.name,
                        place=(*node.place, mine.field),
                    )


def _judges_of(graph: Graph, node: Node) -> list[Node]:
    """The evaluators of what a step makes."""
    return [
        judge
        for judge in graph.nodes.values()
        if evaluates(judge)
        and any(node.name in models_under(graph, s.step) for s in sources_of(judge, Model))
    ]
