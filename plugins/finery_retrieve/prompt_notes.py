"""Notes on prompts with documents that differ between training, evaluation and use.

In goes a recipe's graph. Out come notes on steps that put the documents of one index into prompts
of one model with other settings.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from finery import About, Files, Graph, Model, Node, Note, base_models, sources_of, trains
from finery_retrieve.notes import GROUNDED, origins

DIFFERENT = "different-prompts"
KINDS = {
    DIFFERENT: About(
        when="`retrieve.model` or `eval.grounded` gives a model prompts with other `k`, `prompt`, "
        "`limit` or `unknown` than the rows that it is trained on, or `retrieve.model` with others "
        "than the `eval.grounded` that measures it, for the same index",
        why="A model learns the prompts that it is trained on, and metrics hold for the prompts "
        "that were measured. Steps that differ for a reason can be named side by side: a note is "
        "given only where no step has the same settings.",
    ),
}
MODEL, BUNDLE = "retrieve.model", "retrieve.bundle"
ROWS = ("synth.raft", "retrieve.rows")
SETTINGS = ("k", "prompt", "limit", "unknown")
SHOWN = 40
"""Longest value that a note repeats."""


def notes_on_prompts(graph: Graph) -> Iterator[Note]:
    """All notes on prompts that differ."""
    for node in graph.nodes.values():
        if node.use in (MODEL, GROUNDED):
            yield from _note(node, _learned(graph, node), "whose rows train the model")
        if node.use == MODEL:
            yield from _note(node, _measured(graph, node), "which measures the model")
        if node.use == BUNDLE:
            needed = [graph.nodes[name] for name in node.needs]
            judges = [other for other in needed if other.use == GROUNDED]
            for source in sources_of(node, Model):
                model = graph.nodes[source.step]
                if model.use == MODEL and _differs(model, _measured(graph, model)) is None:
                    yield from _note(model, judges, f"which {node.name} needs")


def _note(node: Node, others: Sequence[Node], which: str) -> Iterator[Note]:
    """A note if other steps share the index of a step, and none its settings."""
    other = _differs(node, others)
    if other is None:
        return
    names = [name for name in SETTINGS if _value(node, name) != _value(other, name)]
    own, others_own = (", ".join(_in_words(of, name) for name in names) for of in (node, other))
    yield Note(
        name=DIFFERENT,
        text=f"{node.name} has {own}, but {other.name}, {which}, has {others_own}",
        fix=f"write the same {' and '.join(names)} in {node.name} and {other.name}",
        step=node.name,
    )


def _differs(node: Node, others: Sequence[Node]) -> Node | None:
    """The first step with the same index, if none of them has the same settings."""
    alike = [other for other in others if _index(other) == _index(node)]
    if not alike or any(_prompts(other) == _prompts(node) for other in alike):
        return None
    return alike[0]


def _learned(graph: Graph, node: Node) -> list[Node]:
    """The steps that make the rows with documents that a step's models are trained on."""
    rows = [
        source.step
        for name in _under(graph, node)
        if trains(graph.nodes[name])
        for source in graph.nodes[name].sources
        if source.role == "train"
    ]
    makers = dict.fromkeys(name for step in rows for name in origins(graph, step))
    return [graph.nodes[name] for name in makers if graph.nodes[name].use in ROWS]


def _measured(graph: Graph, model: Node) -> list[Node]:
    """The evaluations of the model that a step adds documents to."""
    under = set(_under(graph, model))
    return [
        node
        for node in graph.nodes.values()
        if node.use == GROUNDED
        and under & {s.step for s in sources_of(node, Model) if s.field == "models"}
    ]


def _under(graph: Graph, node: Node) -> list[str]:
    """The models that a step takes, and what they are made of, down to their trainings."""
    waiting = [s.step for s in sources_of(node, Model) if s.field in ("model", "models")]
    seen = dict[str, None]()
    while waiting:
        name = waiting.pop(0)
        if name not in seen:
            seen[name] = None
            if not trains(graph.nodes[name]):
                waiting += [source.step for source in base_models(graph.nodes[name])]
    return [*seen]


def _index(node: Node) -> list[tuple[str, str]]:
    return [(s.step, s.output) for s in node.sources if s.field == "index"]


def _prompts(node: Node) -> list[Any]:
    return [_value(node, name) for name in SETTINGS]


def _value(node: Node, name: str) -> Any:
    """A setting; of a file the path in the recipe."""
    value = getattr(node.step, name)
    return value.patterns if isinstance(value, Files) else value


def _in_words(node: Node, name: str) -> str:
    """A setting in words: `k: 8`, `no limit`."""
    value = getattr(node.step, name)
    if value is None:
        return f"the default {name}" if name == "prompt" else f"no {name}"
    text = str(value)
    return f"{name}: {text}" if len(text) <= SHOWN else f"{name}: {text[: SHOWN - 1]}…"
