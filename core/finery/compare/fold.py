"""Folds variants of a step that are in the same state into one line of a list."""

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar

from finery.util.text import counted

if TYPE_CHECKING:
    from finery.recipe.graph import Node

T = TypeVar("T")


def folded(
    items: Sequence[T], node_of: Callable[[T], "Node"], state_of: Callable[[T], Hashable]
) -> list[list[T]]:
    """The items in groups, each at the place of its first: variants of one step in one state."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        node = node_of(item)
        key = (node.origin, state_of(item)) if node.variant else node.name
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def title_of(nodes: Sequence["Node"]) -> str:
    """`sft`, or `sft (12 variants)`."""
    first = nodes[0]
    if len(nodes) == 1:
        return first.name
    return f"{first.origin} ({counted(len(nodes), 'variant')})"
