"""What is checked of the steps before they run, and a note where there is no vLLM."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finery import About, Note, Preflight, StepError
from finery_vllm.answering.model import VllmModel
from finery_vllm.server.installation import installation

if TYPE_CHECKING:
    from finery import Graph

MISSING = "vllm-missing"
KINDS = {
    MISSING: About(
        when="a recipe has a `vllm.model`, and no vLLM was found on this machine",
        why="The first step that prompts the model fails, unless all its answers are cached.",
    )
}
NEEDED = ("torch", "transformers", "peft")


class ModelPreflight(Preflight[VllmModel]):
    """Lists what tokenizes, and merges adapters."""

    def packages(self) -> Mapping[str, str]:
        """The packages that prompts and merged models need; vLLM has an environment of its own."""
        return dict.fromkeys(NEEDED, "finery[train]")


class BundlePreflight(Preflight[Any]):
    """Lists what reads chat templates, and merges adapters."""

    def packages(self) -> Mapping[str, str]:
        """The packages that read tokenizers and merge models; vLLM itself isn't needed."""
        return dict.fromkeys(NEEDED, "finery[train]")


def missing(graph: "Graph") -> list[Note]:
    """A note for the first `vllm.model`, if there is no vLLM."""
    nodes = [node for node in graph.nodes.values() if isinstance(node.step, VllmModel)]
    try:
        installation()
    except StepError as error:
        return [
            Note(
                name=MISSING,
                text=f"{node.name} needs vLLM: {error.what}",
                fix=error.fix or "",
                step=node.name,
                place=node.place,
            )
            for node in nodes[:1]
        ]
    return []
