"""Notes that compare steps: seeds, equal steps, rows that make and judge a model, constraints."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from finery import Bundle, Dataset, Files, Model, Note
from finery.advanced import About, Graph, Node
from finery_advice.training import judges_of, overlap, trained_under

KINDS: Mapping[str, About] = {
    "compared-seeds": About(
        when="an evaluator compares models that were trained under different seeds and also differ "
        "in other settings or in their rows",
        why="The seed alone changes a score, often by several points on a small test set. The "
        "interval of a score covers only the choice of test rows. Train all models under the same "
        "seed, or each of them under the same set of seeds.",
    ),
    "equal-steps": About(
        when="two steps that train a model or use a seed have the same step type, settings, inputs "
        "and seed",
        why="Equal steps have the same key, so finery builds one of them and uses its output for "
        "the other. Comparing the two compares a step with itself.",
    ),
    "unused-seed": About(
        when="a step has a `seed`, but its step type doesn't use one",
        why="The output is the same under any seed. To get new answers from a model, change "
        "`series` of a step that generates rows.",
    ),
    "calibration-rows": About(
        when="a file is quantised with the help of rows (`imatrix`), or a cascade calibrated with "
        "rows, that an evaluator judges it on, or that no split separates from those",
        why="The file is rounded with the least error on just these rows, and the thresholds of a "
        "cascade are chosen by them, so its score on them is too good.",
    ),
    "seen-calibration": About(
        when="a cascade is calibrated with rows that one of its models learned from, was validated "
        "on or shows as examples, or that no split separates from those",
        why="A model errs less on rows that it has seen, and is surer of them. The error of its "
        "other answers may then be far above the `risk` of the cascade.",
    ),
    "other-constraint": About(
        when="a bundle holds answers to a JSON Schema, and no evaluation of its model does, or the "
        "other way round",
        why="A model that is held to a schema gives other answers than one that answers freely: "
        "valid ones, but not always right ones. The score says nothing about what is shipped.",
    ),
}
"""Name → when and why the note is given."""
USES: Mapping[str, tuple[str, str]] = {
    "calibrate": ("calibration-rows", "is calibrated with"),
    "held_out": ("calibration-rows", "is calibrated with"),
    "train": ("same-rows", "learns from"),
    "examples": ("same-rows", "shows examples from"),
}
"""The role of rows → the note if they also judge the model, and what the step does with them."""
SEEN = {"train": "learns from", "validation": "is validated on", "examples": "shows examples from"}
"""The role of rows that a model has seen → what its step does with them."""
UNSEEN = "calibrate on rows that no model has seen and none is judged on, e.g. split.validation"
Signature = tuple[Any, ...]


def notes_between(graph: Graph) -> Iterator[Note]:
    """All notes that compare steps."""
    yield from _equal_steps(graph)
    for node in graph.nodes.values():
        if node.evaluates:
            yield from _compared_seeds(graph, node)
        if not node.is_seeded and "seed" in graph.recipe.data[node.section][node.name]:
            generates = "series" in type(node.step).__struct_fields__
            yield Note(
                name="unused-seed",
                text=f"the seed of {node.name} has no effect: {node.use} doesn't use one",
                fix="series: 1" if generates else "remove it",
                step=node.name,
                place=(*node.place, "seed"),
            )
    yield from _on_judged_rows(graph)
    yield from _on_seen_rows(graph)
    for node in graph.nodes.values():
        if Bundle in node.outputs.values() and "schema" in type(node.step).__struct_fields__:
            yield from _other_constraint(graph, node)


# -- compared models -----------------------------------------------------------------------------


def _compared_seeds(graph: Graph, judge: Node) -> Iterator[Note]:
    """A note if different configurations were trained under different sets of seeds.

    Trainings that differ only in their seed repeat the same configuration.
    """
    configurations: dict[str, dict[Signature, set[int]]] = {}
    under: dict[tuple[str, int], list[str]] = {}
    for source in judge.sources_of(Model):
        for name in sorted(trained_under(graph, source.step)):
            node = graph.nodes[name]
            if node.is_seeded:
                seeds = configurations.setdefault(node.use, {})
                seeds.setdefault(_signature(node, {}), set()).add(node.seed)
                under.setdefault((node.use, node.seed), []).append(name)
    for use, seeds in configurations.items():
        if len({frozenset(of) for of in seeds.values()}) > 1:
            steps = [(name, seed) for (of, seed), names in under.items() if of == use
                     for name in dict.fromkeys(names)]  # fmt: skip
            trained = ", ".join(f"{name} under {seed}" for name, seed in steps)
            yield Note(
                name="compared-seeds",
                text=f"{judge.name} compares models that were trained under different seeds: "
                f"{trained}",
                fix="remove `seed` from these steps, or train each configuration under the same "
                "seeds",
                step=judge.name,
            )


# -- equal steps ---------------------------------------------------------------------------------


def _equal_steps(graph: Graph) -> Iterator[Note]:
    """A note for each step that is equal to an earlier one."""
    first: dict[Signature, str] = {}
    equal: dict[str, str] = {}  # step → the earlier one
    for name, node in graph.nodes.items():
        seed = node.seed if node.is_seeded else None
        earlier = first.setdefault((_signature(node, equal), seed), name)
        if earlier != name:
            equal[name] = earlier
    for name, earlier in equal.items():
        node = graph.nodes[name]
        spec = type(node.step).__spec__
        if spec.engines and not node.evaluates:
            fix = "for different rows, give one of them another `series`"
        elif node.is_seeded:
            fix = "for a different result, give one of them a `seed`"
        else:
            continue  # for example, a file that is read twice
        # Steps that are equal only because their inputs are equal need no note of their own.
        same_inputs = [s.ref for s in node.sources] == [s.ref for s in graph.nodes[earlier].sources]
        if node.trains or same_inputs:
            yield Note(
                name="equal-steps",
                text=f"{name} is equal to {earlier}, so both have the same output, which is built "
                "once",
                fix=fix,
                step=name,
            )


def _signature(node: Node, equal: Mapping[str, str]) -> Signature:
    """Everything that determines a step's output except its seed: step type, settings, inputs.

    equal: step → the equal step to use instead of it as an input.
    """
    inputs = tuple((s.field, s.index, equal.get(s.step, s.step), s.output) for s in node.sources)
    fields = type(node.step).__finery_fields__
    settings = msgspec.to_builtins(node.step, enc_hook=_plain)
    counted = {k: v for k, v in settings.items() if fields[k].affects_output}
    return (node.use, msgspec.json.encode(counted, order="deterministic"), inputs)


def _plain(value: Any) -> Any:
    """The paths of outside files; None for an input, which is identified by its step."""
    return value.patterns if isinstance(value, Files) else None


# -- rows that a model is judged on, and that made it ---------------------------------------------


def _on_judged_rows(graph: Graph) -> Iterator[Note]:
    """A note for each step that makes a model and has separate test rows.

    Trainings have this note from `notes.same_rows`, which also compares their validation rows.
    """
    for node in graph.nodes.values():
        for mine in node.sources:
            if mine.role not in USES or (mine.role == "train" and node.trains):
                continue
            name, use = USES[mine.role]
            for judge in judges_of(graph, node.name):
                if any(overlap(graph, mine, source) for source in judge.sources_of(Dataset)):
                    yield Note(
                        name=name,
                        text=f"{node.name} {use} {mine.ref}, and {judge.name} judges it on the "
                        "same rows",
                        fix=UNSEEN
                        if mine.role == "held_out"
                        else "name the rows that the model was trained on, e.g. split.train",
                        step=node.name,
                        place=(*node.place, mine.field),
                    )


def _on_seen_rows(graph: Graph) -> Iterator[Note]:
    """A note for each model of a cascade that has seen rows of the calibration."""
    for node in graph.nodes.values():
        for mine in node.sources:
            names = graph.models_under(node.name) if mine.role == "held_out" else ()
            for name in sorted({*names} - {node.name}):
                for theirs in graph.nodes[name].sources:
                    if theirs.role in SEEN and overlap(graph, theirs, mine):
                        yield Note(
                            name="seen-calibration",
                            text=f"{node.name} is calibrated with {mine.ref}, and {name} "
                            f"{SEEN[theirs.role]} {theirs.ref}: these are the same rows",
                            fix=UNSEEN,
                            step=node.name,
                            place=(*node.place, mine.field),
                        )


# -- answers that are held to a schema ------------------------------------------------------------


def _other_constraint(graph: Graph, bundle: Node) -> Iterator[Note]:
    """A note if all evaluations of a bundle's models that know `constrain` differ from it."""
    shipped = getattr(bundle.step, "schema", None) is not None
    names = {name for s in bundle.sources_of(Model) for name in graph.models_under(s.step)}
    judges = [
        node
        for node in graph.nodes.values()
        if "constrain" in type(node.step).__struct_fields__
        and any(source.step in names for source in node.sources_of(Model))
    ]
    if not judges or any(getattr(node.step, "constrain", False) == shipped for node in judges):
        return
    judged = judges[0].name
    text = f"{bundle.name} holds answers to a schema, but {judged} lets models answer freely"
    fix = f"add `constrain: true` to {judged}"
    if not shipped:
        text = f"{judged} holds answers to a schema, but {bundle.name} doesn't"
        fix = f"add the `schema` of {judged} to {bundle.name}"
    yield Note(name="other-constraint", text=text, fix=fix, step=bundle.name, place=bundle.place)
