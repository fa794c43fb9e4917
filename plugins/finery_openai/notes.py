"""Advice on models behind an API."""

import os
from typing import TYPE_CHECKING

from finery import Note
from finery_openai.model import OpenaiModel

if TYPE_CHECKING:
    from finery import Graph


def unset_keys(graph: "Graph") -> list[Note]:
    """A note for each variable that holds a model's key and isn't set here, or is empty."""
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
            fix=f"export {key}=…, or api_key: null for a server that needs none",
            step=node.name,
        )
        for node, key in unset
    ]
