"""Notes on steps beside each other: compared models, equal steps, seeds without effect."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from finery import About, Files, Graph, Model, Node, Note, evaluates, sources_of, trains
from finery_advice.lineage import trained_under

COMPARED_SEEDS = "compared-seeds"
EQUAL_STEPS = "equal-steps"
UNUSED_SEED = "unused-seed"
KINDS: Mapping[str, About] = {
    COMPARED_SEEDS: About(
        when="an evaluator compares models that were trained under different seeds and that differ "
        "in other settings or rows as well",
        why="The seed alone moves a score, often by several points on a small test set. The "
        "interval of a score covers the choice of test rows only, and doesn't include that. Train "
        "all models under the same seed, or each of them under the same several seeds.",
    ),
    EQUAL_STEPS: About(
        when="two steps that train a model or use a seed have the same step type, settings, inputs "
        "and seed",
        why="Equal steps have the same key: finery builds one of them, and the other takes its "
        "output. Comparing the two compares a step with itself.",
    ),
    UNUSED_SEED: About(
        when="a step has a `seed`, and its step type doesn't use one",
        why="The output is the same under any seed. For new answers from a model, steps that "
        "generate rows have `series`.",
    ),
}
"""Name → when and why the note is given."""
Signature = tuple[Any, ...]


def notes_between(graph: Graph) -> Iterator[Note]:
    """All notes on steps beside each other."""
    equal = _equal_steps(graph)
    yield from _notes_on_equal(graph, equal)
    for node in graph.nodes.values():
        if evaluates(node):
            yield from _compared_seeds(graph, node)
        if not node.step.uses_seed() and _has_seed(graph, node):
            yield _unused_seed(node)


# -- compared models -----------------------------------------------------------------------------


def _compared_seeds(graph: Graph, judge: Node) -> Iterator[Note]:
    """A note where one way of training has other seeds than another one.

    Trainings that differ in nothing but their seed are one way, since they repeat it.
    """
    ways: dict[str, dict[Signature, set[int]]] = {}
    under: dict[tuple[str, int], list[str]] = {}
    for source in sources_of(judge, Model):
        for name in sorted(trained_under(graph, source.step)):
            node = graph.nodes[name]
            if node.step.uses_seed():
                seeds = ways.setdefault(node.use, {})
                seeds.setdefault(_signature(node, {}), set()).add(node.seed)
                under.setdefault((node.use, node.seed), []).append(name)
    for use, seeds in ways.items():
        if len({frozenset(of) for of in seeds.values()}) > 1:
            steps = [(name, seed) for (of, seed), names in under.items() if of == use
                     for name in dict.fromkeys(names)]  # fmt: skip
            trained = ", ".join(f"{name} under {seed}" for name, seed in steps)
            yield Note(
                name=COMPARED_SEEDS,
                text=f"{judge.name} compares models that were trained under different seeds: "
                f"{trained}",
                fix="give these steps the same `seed`, or none, or train each under several seeds",
                step=judge.name,
            )


# -- equal steps ---------------------------------------------------------------------------------


def _equal_steps(graph: Graph) -> dict[str, str]:
    """Step → the earlier step that it is equal to."""
    first: dict[Signature, str] = {}
    equal: dict[str, str] = {}
    for name, node in graph.nodes.items():
        seed = node.seed if node.step.uses_seed() else None
        earlier = first.setdefault((_signature(node, equal), seed), name)
        if earlier != name:
            equal[name] = earlier
    return equal


def _notes_on_equal(graph: Graph, equal: Mapping[str, str]) -> Iterator[Note]:
    for name, first in equal.items():
        node = graph.nodes[name]
        spec = type(node.step).__spec__
        if spec.engines and not evaluates(node):
            fix = "for other rows, give one of them another `series`"
        elif node.step.uses_seed():
            fix = "for another result, give one of them a `seed`"
        else:
            continue  # reading a file twice, say
        # Steps that are equal because what they take is equal need no note of their own.
        same_inputs = [s.ref for s in node.sources] == [s.ref for s in graph.nodes[first].sources]
        if trains(node) or same_inputs:
            yield Note(
                name=EQUAL_STEPS,
                text=f"{name} equals {first}: both have the same output, which is built once",
                fix=fix,
                step=name,
            )


def _signature(node: Node, equal: Mapping[str, str]) -> Signature:
    """What makes a step's output, except its seed: step type, settings and inputs.

    equal: step → the one that stands for it where it is an input.
    """
    inputs = tuple((s.field, s.index, equal.get(s.step, s.step), s.output) for s in node.sources)
    fields = type(node.step).__finery_fields__
    settings = msgspec.to_builtins(node.step, enc_hook=_plain)
    counted = {k: v for k, v in settings.items() if fields[k].affects_output}
    return (node.use, msgspec.json.encode(counted, order="deterministic"), inputs)


def _plain(value: Any) -> Any:
    """The paths of outside files; nothing of an input, which counts by the step it comes from."""
    return value.patterns if isinstance(value, Files) else None


# -- seeds without effect ------------------------------------------------------------------------


def _has_seed(graph: Graph, node: Node) -> bool:
    return "seed" in graph.recipe.data[node.section][node.name]


def _unused_seed(node: Node) -> Note:
    generates = "series" in type(node.step).__struct_fields__
    return Note(
        name=UNUSED_SEED,
        text=f"the seed of {node.name} has no effect: {node.use} doesn't use one",
        fix="series: 1" if generates else "remove it",
        step=node.name,
        place=(*node.place, "seed"),
    )
