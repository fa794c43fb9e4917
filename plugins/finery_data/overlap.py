"""The note `train-test-overlap`: trainings on rows that may nearly repeat test rows."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from finery import Note
from finery.advanced import About, Forecasts, Graph, Node, Source
from finery.rows.near import NEAR_SIMILARITY

NAME = "train-test-overlap"
ABOUT = {
    NAME: About(
        when="a training takes rows of the same origin as an evaluator's or a cascade's, and no "
        "step between them drops near copies: the split has `decontaminate: false`, or rows were "
        "generated from another part of it, and no `data.decontaminate` follows",
        why="A near copy of a test row in the training rows makes the score a test of memory. "
        "`data.split` drops near copies from train, but doesn't see rows that are generated later.",
    )
}
Output = tuple[str, str]
"""(step, output) of some rows."""


class _Way(NamedTuple):
    """A path from a training back to its sources, and the step on it that generated rows."""

    step: str
    output: str
    generated: str


def notes_on(graph: Graph) -> list[Note]:
    """A note for each training and each evaluator's rows that overlap."""
    learned = [
        (node, source)
        for node in graph.nodes.values()
        if node.trains
        for source in node.sources
        if source.role == "train"
    ]
    tests = [
        (judge, source)
        for judge in graph.nodes.values()
        if judge.evaluates
        for source in judge.row_sources
    ]
    tests += [(n, s) for n in graph.nodes.values() for s in n.sources if s.role == "held_out"]
    notes: dict[tuple[str, str], Note] = {}
    for node, source in learned:
        for judge, test in tests:
            key = (node.name, test.ref)
            overlap = next(overlaps(graph, source, test), None)
            if overlap is None or key in notes:
                continue
            why, fix = overlap
            notes[key] = Note(
                name=NAME,
                text=f"{node.name} trains on {source.ref}, where near copies of the test rows of "
                f"{judge.name} ({test.ref}) may be: {why}",
                fix=fix
                or f"clean: {{use: data.decontaminate, rows: {source.ref}, against: {test.ref}}} "
                "under `data`, and train on clean",
                step=node.name,
                place=(*node.place, *source.field.split(".")),
            )
    return list(notes.values())


def overlaps(graph: Graph, source: Source, test: Source) -> Iterator[tuple[str, str]]:
    """(why, a special fix or nothing) where rows may nearly repeat the test rows.

    source: an input of a training. test: one of an evaluator. Another note (`same-rows`) is about
    rows that the test takes too, without a split between.
    """
    held = _ancestors(graph, test)
    stack, seen = [_Way(source.step, source.output, "")], set[_Way]()
    while stack:
        way = stack.pop()
        node = graph.nodes[way.step]
        compared = {(s.step, s.output) for s in node.sources if s.role == "compare"}
        if way in seen or not compared.isdisjoint(held):
            continue
        seen.add(way)
        here = {output for step, output in held if step == way.step}
        if here and way.output not in here:
            yield from _parted(graph, node, way)
        elif not here:
            # A model that writes prompts may repeat others of the step's inputs.
            writes_prompts = node.generates and not type(node.step).__spec__.keeps_prompts
            generated = node.name if writes_prompts else way.generated
            stack += [_Way(s.step, s.output, generated) for s in node.row_sources]


def are_apart(graph: Graph, rows: Source, test: Source) -> bool:
    """Whether a step dropped the near copies of the test rows, and no later one changed a row."""
    return _is_clean(graph, (rows.step, rows.output), set(_origins(graph, test.step, test.output)))


def _is_clean(graph: Graph, rows: Output, held: Collection[Output]) -> bool:
    node = graph.nodes[rows[0]]
    forecast = Forecasts(graph).forecast(node)
    if forecast.keeps_apart:
        return any(step == node.name and output != rows[1] for step, output in held)
    compared = {(s.step, s.output) for s in node.sources if s.role == "compare"}
    if (
        not compared.isdisjoint(held)
        and getattr(node.step, "threshold", NEAR_SIMILARITY) <= NEAR_SIMILARITY
    ):
        return True
    return bool(node.row_sources) and all(
        s.field in forecast.passes and _is_clean(graph, (s.step, s.output), held)
        for s in node.row_sources
    )


def _origins(graph: Graph, step: str, output: str) -> Iterator[Output]:
    """Some rows, and those that they come from unchanged."""
    yield step, output
    node = graph.nodes[step]
    passes = Forecasts(graph).forecast(node).passes
    for source in node.row_sources:
        if source.field in passes:
            yield from _origins(graph, source.step, source.output)


def _parted(graph: Graph, node: Node, way: _Way) -> Iterator[tuple[str, str]]:
    """What may overlap although the step outputs separate parts."""
    if way.generated:
        yield f"{way.generated} is generated from {node.name}.{way.output}", ""
        return
    if not Forecasts(graph).forecast(node).keeps_apart:
        is_off = getattr(node.step, "decontaminate", None) is False
        yield f"{node.name} keeps them", f"decontaminate: true in {node.name}" if is_off else ""


def _ancestors(graph: Graph, source: Source) -> set[Output]:
    """Some rows, and all those that they come from."""
    outputs, stack = set[Output](), [(source.step, source.output)]
    while stack:
        output = stack.pop()
        if output not in outputs:
            outputs.add(output)
            stack += [(s.step, s.output) for s in graph.nodes[output[0]].row_sources]
    return outputs
