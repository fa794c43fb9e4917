"""A variant of a matrix as a side of a comparison: its steps under the names of the file."""

from collections.abc import Sequence
from dataclasses import replace

from finery.compare.sides import Side, SideStep, now
from finery.compare.variants import choice_of
from finery.errors import UsageError
from finery.recipe.graph import Graph, Node
from finery.recipe.matrix.axes import SEED, Variant
from finery.recipe.matrix.choose import WINNER
from finery.store.database import Store

FIRST = 3
"""Variants that an error names."""


def of_variant(graph: Graph, store: Store, word: str) -> Side | None:
    """The side of a variant; None if the word names none.

    A word is the name of a variant (`r=8`), a step of one (`sft@r=8`, `train.sft@r=8`), or
    `winner`. Raises `UsageError` if it names several variants, or if nothing is chosen yet.
    """
    if graph.matrix is None:
        return None
    state = now(graph, store)
    if word == WINNER and graph.select_by is not None:
        return _side(graph, state, word, [_chosen(graph, state)])
    step, at, name = word.rpartition("@")
    node = _step(graph, step, name) if step else None
    if node is not None and not _fitting(graph, name, whole=True):
        return _of_step(graph, state, word, node)
    found = _fitting(graph, name)
    if not found or (at and step and node is None):
        return None
    return _side(graph, state, word, found)


def default_side(graph: Graph, word: str) -> str | None:
    """The default side to compare a variant with; None if the word isn't a variant."""
    if graph.matrix is None or word == WINNER or not _fitting(graph, word.rpartition("@")[2]):
        return None
    if graph.select_by is None:
        raise UsageError(
            f"'{word}' is a variant, and the recipe chooses none to compare it with",
            fix=f"name a second one: {some_of(graph)}",
        )
    return WINNER


def check_pair(graph: Graph, first: Side, second: Side) -> None:
    """Raise `UsageError` where a variant would be compared with all variants."""
    for one, other in ((first, second), (second, first)):
        if one.is_variant and not other.is_variant and any("@" in name for name in other.steps):
            raise UsageError(
                f"'{other.label}' has variants itself, so '{one.label}' can't be compared with it",
                fix=f"name a variant, such as {some_of(graph)}, or a state without a matrix",
            )


def some_of(graph: Graph) -> str:
    """The first variants by name."""
    assert graph.matrix is not None
    return ", ".join(variant.name for variant in graph.matrix.variants[:FIRST])


def _chosen(graph: Graph, state: Side) -> Variant:
    assert graph.matrix is not None
    choice = choice_of(graph, {name: step.result for name, step in state.steps.items()})
    if choice is None:
        raise UsageError(
            "no variant is chosen yet",
            fix=f"finery build, or name one: {some_of(graph)}",
        )
    return next(each for each in graph.matrix.variants if each.name == choice["chosen"])


def _step(graph: Graph, step: str, name: str) -> Node | None:
    """The variant of a step. step: its name in the file, or `section.name`."""
    wanted = _parts(name)
    for node in graph.nodes.values():
        is_named = step in (node.origin, f"{node.section}.{node.origin}")
        if node.variant and is_named and _parts(node.variant) == wanted:
            return node
    return None


def _fitting(graph: Graph, name: str, *, whole: bool = False) -> list[Variant]:
    """The variants that have all the values in a name. whole: those that have no others."""
    assert graph.matrix is not None
    wanted, variants = _parts(name), graph.matrix.variants
    exact = [each for each in variants if _parts(each.name) == wanted]
    exact = exact or [each for each in variants if _parts(each.combination) == wanted]
    if exact or whole:
        return exact
    return [each for each in variants if wanted < _parts(each.name)]


def _parts(name: str) -> set[str]:
    return set(name.replace(".", "_").split(","))


def _side(graph: Graph, state: Side, word: str, found: Sequence[Variant]) -> Side:
    """The side of the first variant; the others may differ from it only in the seed."""
    assert graph.matrix is not None
    first = found[0]
    if any(each.combination != first.combination for each in found):
        raise UsageError(
            f"'{word}' names {len(found)} variants",
            fix=f"write all values of one, such as {first.name}",
        )
    about = f"the variant {first.name}{', chosen by winner' if word == WINNER else ''}"
    side = _renamed(graph, state, word, about, list(graph.matrix.steps[first.name].values()))
    if len(found) > 1:
        seed = first.values[SEED].label
        side.notes.append(f"{word} has {len(found)} repeats: this is the one under seed {seed}")
    return side


def _of_step(graph: Graph, state: Side, word: str, node: Node) -> Side:
    """A step that has fewer variants than the recipe: the step, and what it is made from."""
    return _renamed(graph, state, word, f"{node.name} and the steps before it", [node.name])


def _renamed(graph: Graph, state: Side, word: str, about: str, names: Sequence[str]) -> Side:
    side = Side(word, about, is_variant=True)
    for name, node in graph.select([each for each in names if each in graph.nodes]).nodes.items():
        step: SideStep = state.steps[name]
        side.steps[node.origin or name] = replace(step, name=node.origin or name)
    select = graph.select_by
    if select is not None and not select.own_rows and select.evaluator in side.steps:
        side.notes.append(f"{select.evaluator} is on {select.rows}, which the winner is chosen by")
    return side
