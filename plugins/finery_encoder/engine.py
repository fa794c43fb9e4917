"""The engine of classifiers on encoders."""

from types import ModuleType
from typing import ClassVar

from finery_baseline.engines import TextEngine
from finery_encoder import network


class EncoderEngine(TextEngine):
    """Gives the most likely class of each field, and how probable the answer is."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "safetensors")
    standalone: ClassVar[ModuleType | None] = network
    local = True
