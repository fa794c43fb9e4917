"""Notes on recipes with documents: shared documents, knowledge without retrieval, distractors."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from finery import (
    About,
    Dataset,
    Graph,
    Index,
    Model,
    Node,
    Note,
    Results,
    Source,
    base_models,
    counted,
    evaluates,
    generates,
    row_sources,
    sources_of,
    trains,
)

SHARED, UNRETRIEVED, RANDOM = "shared-documents", "knowledge-by-heart", "random-distractors"
TWICE = "retrieved-twice"
KINDS = {
    TWICE: About(
        when="a model of `retrieve.model` is asked rows of `retrieve.rows` or `synth.raft`",
        why="Their prompts already contain documents. The model takes the whole prompt for the "
        "question, searches for all its words, and puts documents around the documents.",
    ),
    SHARED: About(
        when="a model that `eval.grounded` judges is trained on rows about documents that the test "
        "rows are about, too: their `source` is the same, or a split between them has no `group`",
        why="A model can answer such questions from what it learned of the document, whatever is "
        "in the context. Only questions about other documents show that it reads the context.",
    ),
    UNRETRIEVED: About(
        when="a model is trained and judged on questions of `synth.from_docs` without their "
        "context, and the recipe has no index to retrieve from",
        why="Fine-tuning is a poor way to teach facts: models learn few of them, make up others, "
        "and know nothing of a document that changed since (Ovadia et al. 2023, "
        "https://arxiv.org/abs/2312.05934; Gekhman et al. 2024, https://arxiv.org/abs/2405.05904). "
        "Retrieval puts the facts into the prompt.",
    ),
    RANDOM: About(
        when="`synth.from_docs` adds distractors to contexts, and the recipe has an index",
        why="Its distractors are random chunks, which are easy to tell from the right one. What an "
        "index retrieves is about the same things as the question, so a model has to read it.",
    ),
}
FROM_DOCS = "synth.from_docs"
RETRIEVING = "retrieve.model"
PUT_IN = ("retrieve.rows", "synth.raft")
"""Steps whose prompts contain documents."""
GROUNDED = "eval.grounded"
SOURCE = "source"
"""The column that names a row's document."""
MOST_READ = 20_000
"""Rows whose documents are compared."""


def notes_on(graph: Graph, results: Results) -> list[Note]:
    """All notes on a recipe with documents."""
    return [*_shared(graph, results), *_unretrieved(graph), *_random(graph), *_twice(graph)]


# documents of training and test


def _shared(graph: Graph, results: Results) -> Iterator[Note]:
    for judge in graph.nodes.values():
        if judge.use != GROUNDED:
            continue
        for test in (s for s in row_sources(judge) if s.field == "rows"):
            notes = (_overlap(graph, results, judge, test, *of) for of in _learned(graph, judge))
            yield from islice((note for note in notes if note is not None), 1)


def _overlap(
    graph: Graph, results: Results, judge: Node, test: Source, training: Node, learned: Source
) -> Note | None:
    parting = _parting(graph, learned, test)
    if parting is not None and getattr(parting.step, "group", None) == SOURCE:
        return None
    known = [_documents(results, source) for source in (learned, test)]
    if all(known):
        both = known[0] & known[1]
        text = f"of the {counted(len(known[1]), 'document')} that {judge.name} asks about, "
        text += f"{training.name} is trained on questions about {len(both)}"
    else:
        both = set() if parting is None else {"unknown"}
        text = f"{training.name} is trained on {learned.ref}, and {judge.name} tests {test.ref}: "
        text += "questions about the same documents may be in both"
    if not both:
        return None
    return Note(
        name=SHARED, text=text, fix=_fix(parting, test), step=judge.name,
        place=(*judge.place, test.field),
    )  # fmt: skip


def _fix(parting: Node | None, test: Source) -> str:
    if parting is None:
        return f"let {test.ref} ask about documents that no training row is about"
    if hasattr(parting.step, "group"):
        return f"write group: source in {parting.name}"
    return "split the chunks first: data.split with group: source"


def _learned(graph: Graph, judge: Node) -> Iterator[tuple[Node, Source]]:
    """(training, its rows) of all trainings under the judged models."""
    waiting = [s.step for s in sources_of(judge, Model) if s.field == "models"]
    seen = set[str]()
    while waiting:
        step = waiting.pop(0)
        if step in seen:
            continue
        seen.add(step)
        node = graph.nodes[step]
        if trains(node):
            yield from ((node, source) for source in node.sources if source.role == "train")
        waiting += [source.step for source in base_models(node)]


def _documents(results: Results, source: Source) -> set[str]:
    """The documents of some rows; empty if the rows aren't built or name none."""
    rows: Any = results.artifact(source.step, source.output)
    if not isinstance(rows, Dataset):
        return set()
    return {str(row[SOURCE]) for row in islice(rows, MOST_READ) if row.get(SOURCE)}


def _parting(graph: Graph, learned: Source, test: Source) -> Node | None:
    """The step that both rows come from, the nearest to the training."""
    tested = set(origins(graph, test.step))
    return next((graph.nodes[s] for s in origins(graph, learned.step) if s in tested), None)


def origins(graph: Graph, step: str) -> Iterator[str]:
    """A step, and the steps that its rows come from, the nearest first."""
    waiting, seen = [step], set[str]()
    while waiting:
        name = waiting.pop(0)
        if name not in seen:
            seen.add(name)
            yield name
            waiting += [source.step for source in row_sources(graph.nodes[name])]


# knowledge and distractors


def _unretrieved(graph: Graph) -> Iterator[Note]:
    if _has_index(graph):
        return
    for node in graph.nodes.values():
        if node.use != FROM_DOCS or getattr(node.step, "context", "") != "without":
            continue
        trainings = [n for n in graph.nodes.values() if trains(n) and _takes(graph, n, node.name)]
        judges = [n for n in graph.nodes.values() if evaluates(n) and _takes(graph, n, node.name)]
        if trainings and judges:
            yield Note(
                name=UNRETRIEVED,
                text=f"{trainings[0].name} learns the facts of {node.name} by heart, and "
                f"{judges[0].name} tests it without documents",
                fix="add an index (retrieve.index) and train on synth.raft, or set context: both",
                step=trainings[0].name,
            )


def _random(graph: Graph) -> Iterator[Note]:
    if not _has_index(graph):
        return
    for node in graph.nodes.values():
        if node.use == FROM_DOCS and getattr(node.step, "distractors", None):
            yield Note(
                name=RANDOM,
                text=f"the distractors of {node.name} are random chunks",
                fix=f"set context: without in {node.name}, and add distractors from the index: "
                f"{{use: synth.raft, rows: {node.name}, index: {_index(graph)}}}",
                step=node.name,
                place=(*node.place, "distractors"),
            )


def _twice(graph: Graph) -> Iterator[Note]:
    for node in graph.nodes.values():
        if not (evaluates(node) or generates(node)):
            continue
        models = [model for of in sources_of(node, Model) for model in _retrieving(graph, of.step)]
        for source in row_sources(node) if models else ():
            steps = (graph.nodes[name] for name in origins(graph, source.step))
            origin = next((step for step in steps if step.use in PUT_IN), None)
            if origin is not None:
                yield Note(
                    name=TWICE,
                    text=f"{node.name} asks {models[0]}, which retrieves documents itself, rows of "
                    f"{origin.name}, whose prompts already contain documents",
                    fix=f"use the rows that {origin.name} takes, or the model that {models[0]} is "
                    "made of",
                    step=node.name,
                    place=(*node.place, source.field),
                )


def _retrieving(graph: Graph, step: str) -> Iterator[str]:
    """The step, or those that its model is made from, as far as they retrieve."""
    if graph.nodes[step].use == RETRIEVING:
        yield step
        return
    for source in base_models(graph.nodes[step]):
        yield from _retrieving(graph, source.step)


def _has_index(graph: Graph) -> bool:
    return bool(_index(graph))


def _index(graph: Graph) -> str:
    """The first step that makes an index, empty if none does."""
    return next(
        (
            node.name
            for node in graph.nodes.values()
            if any(issubclass(kind, Index) for kind in node.outputs.values())
        ),
        "",
    )


def _takes(graph: Graph, node: Node, origin: str) -> bool:
    """Whether rows of a step come from another one."""
    return any(origin in origins(graph, source.step) for source in row_sources(node))
