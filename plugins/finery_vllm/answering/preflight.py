"""What is checked of the steps before they run."""

from collections.abc import Mapping

from finery import Preflight
from finery_vllm.answering.model import VllmModel
from finery_vllm.bundle.step import VllmBundle

NEEDED = ("torch", "transformers", "peft")


class ModelPreflight(Preflight[VllmModel]):
    """Lists what tokenizes, and merges adapters."""

    def packages(self) -> Mapping[str, str]:
        """The packages that prompts and merged models need; vLLM has an environment of its own."""
        return dict.fromkeys(NEEDED, "finery[train]")


class BundlePreflight(Preflight[VllmBundle]):
    """Lists what reads chat templates, and merges adapters."""

    def packages(self) -> Mapping[str, str]:
        """The packages that read tokenizers and merge models; vLLM itself isn't needed."""
        return dict.fromkeys(NEEDED, "finery[train]")
