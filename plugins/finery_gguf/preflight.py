"""The packages that `gguf.export` needs."""

from collections.abc import Mapping

from finery import Preflight
from finery_gguf.export import Export
from finery_gguf.llama import PACKAGE


class ExportPreflight(Preflight[Export]):
    """Says what converts, quantises and proves."""

    def packages(self) -> Mapping[str, str]:
        """The packages that read the model, and llama.cpp."""
        needed = ("torch", "transformers", "peft", "gguf", PACKAGE)
        return dict.fromkeys(needed, "finery[gguf]")
