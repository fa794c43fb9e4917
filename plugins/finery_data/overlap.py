"""The note `train-test-overlap`: trainings on rows that may nearly repeat test rows."""

from collections.abc import Iterator
from typing import NamedTuple

from finery import About, Graph, Node, Note, Source, row_sources

NAME = "train-test-overlap"
ABOUT = {
    NAME: About(
        when="a training takes rows of the same origin as an evaluator's, and nothing between "
        "drops near copies of these: the split has `decontaminate: false`, or rows were generated "
        "from the other part of it, and no `data.decontaminate` follows",
        why="A near copy of a test row in the training rows makes the score a test of memory. "
        "`data.split` drops near copies from train by itself; it can't see rows that are generated "
        "later.",
    )
}
PROMPT_KEPT = frozenset({"synth.answer", "synth.judge", "synth.preferences"})
"""Step types that generate, and leave the prompts as they are."""

Output = tuple[str, str]
"""(step, output) of some rows."""


class _Way(NamedTuple):
    """A way from a training back: where it is, and the step on it that generated rows, if any."""

    step: str
    output: str
    generated: str


def notes_on(graph: Graph) -> list[Note]:
    """A note for each training and each evaluator's rows that overlap."""
    trained = [n for n in graph.nodes.values() if n.section == "train"]
    tests = [
        (judge, source)
        for judge in graph.nodes.values()
        if judge.section == "evaluate"
        for source in row_sources(judge)
    ]
    found: dict[tuple[str, str], Note] = {}
    for node in trained:
        for source in row_sources(node):
            for judge, test in tests:
                note = _note(graph, node, source, judge, test) if source.field == "rows" else None
                if note is not None:
                    found.setdefault((node.name, test.ref), note)
    return list(found.values())


def _note(graph: Graph, node: Node, source: Source, judge: Node, test: Source) -> Note | None:
    found = next(_overlaps(graph, source, test), None)
    if found is None:
        return None
    why, fix = found
    return Note(
        name=NAME,
        text=f"{node.name} trains on {source.ref}, where near copies of the test rows of "
        f"{judge.name} ({test.ref}) may be: {why}",
        fix=fix
        or f"clean: {{use: data.decontaminate, rows: {source.ref}, against: {test.ref}}} under "
        f"`data`, and train on clean",
        step=node.name,
        place=(*node.place, "rows"),
    )


def _overlaps(graph: Graph, source: Source, test: Source) -> Iterator[tuple[str, str]]:
    """(why, a special fix or nothing) where rows may nearly repeat the test rows.

    Rows that the test takes too, unparted, are told of by another note (`same-rows`).
    """
    held = _ancestors(graph, test)
    stack, seen = [_Way(source.step, source.output, "")], set[_Way]()
    while stack:
        way = stack.pop()
        node = graph.nodes[way.step]
        if way in seen or _decontaminates(node, held):
            continue
        seen.add(way)
        here = {output for step, output in held if step == way.step}
        if here and way.output not in here:
            yield from _parted(node, way)
        elif not here:
            generates = node.section == "generate" and node.use not in PROMPT_KEPT
            generated = node.name if generates else way.generated
            stack += [_Way(s.step, s.output, generated) for s in row_sources(node)]


def _parted(node: Node, way: _Way) -> Iterator[tuple[str, str]]:
    """What may overlap although the step gives the two different parts."""
    if way.generated:
        yield f"{way.generated} is generated from {node.name}.{way.output}", ""
    elif not getattr(node.step, "decontaminate", False):
        off = hasattr(node.step, "decontaminate")
        yield f"{node.name} keeps them", f"decontaminate: true in {node.name}" if off else ""


def _decontaminates(node: Node, held: set[Output]) -> bool:
    """Whether a step drops near copies of the test rows, or of the rows these were taken from."""
    against = {(s.step, s.output) for s in node.sources if s.role == "compare"}
    return node.use == "data.decontaminate" and not against.isdisjoint(held)


def _ancestors(graph: Graph, source: Source) -> set[Output]:
    """Some rows, and all those that they come from."""
    found, stack = set[Output](), [(source.step, source.output)]
    while stack:
        here = stack.pop()
        if here not in found:
            found.add(here)
            stack += [(s.step, s.output) for s in row_sources(graph.nodes[here[0]])]
    return found
