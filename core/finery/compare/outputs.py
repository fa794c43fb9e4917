"""The outputs of steps: their names in the recipe, their views, and variants folded into a line."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from finery.artifact.manifest import Manifest
from finery.plugin.manager import Plugins
from finery.store.database import Store
from finery.util.text import counted, size
from finery.views.view import Output, View

if TYPE_CHECKING:
    from finery.recipe.graph import Node


def view_of(plugins: Plugins, manifest: Manifest) -> View:
    """The view that shows an artifact."""
    return plugins.view(manifest.kind, str(manifest.meta.get("format", "")))


def output_of(plugins: Plugins, store: Store, title: str, manifest: Manifest) -> Output:
    """An output for its view. title: its name in the recipe."""
    refs = {role: phrase(plugins, ref) for role, ref in manifest.refs.items()}
    return Output(title, store.artifact(manifest), manifest, refs)


def titled(step: str, outputs: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Name in the recipe → manifest of each output.

    The unnamed output is omitted if it repeats a named one.
    """
    named = {name: m for name, m in outputs.items() if name or outputs.keys() == {""}}
    return {f"{step}.{name}" if name else step: manifest for name, manifest in named.items()}


def phrase(plugins: Plugins, manifest: Manifest) -> str:
    """An artifact in a few words, for a list: `gguf q8_0, 138 MiB`."""
    brief = view_of(plugins, manifest).brief(manifest)
    return ", ".join(part for part in (brief, size(manifest.size())) if part)


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
