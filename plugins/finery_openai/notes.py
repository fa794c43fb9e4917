"""Notes on models behind an API."""

import os
from typing import TYPE_CHECKING

from finery import Note
from finery_openai.model import OpenaiModel

if TYPE_CHECKING:
    from finery import Graph


def unset_keys(graph: "Graph") -> list[Note]:
    """A note for each variable with an API key that isn't set here or is empty."""
    keys = [
        (node, node.step.api_key)
        for node in graph.nodes.values()
        if isinstance(node.step, OpenaiModel)
    ]
    unset = [(node, key) for node, key in keys if key and not os.environ.get(key, "").strip()]
    return [
        Note(
            name="unset-variable",
            text=f"{node.name} needs the key in the environment variable {key}, which "
            + ("is empty here" if key in os.environ else "isn't set here"),
            fix=f"export {key}=…, or set api_key: null if the server needs no key",
            step=node.name,
        )
        for node, key in unset
    ]
