"""The engine of classifiers on encoders."""

from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar

from finery import Completion, Request, Sampling
from finery.rows.similar import question
from finery_baseline.engines import TextEngine
from finery_encoder import network


class EncoderEngine(TextEngine):
    """Gives the most likely class of each field, and how probable the answer is."""

    packages = ("torch", "transformers", "tokenizers", "safetensors")
    standalone: ClassVar[ModuleType | None] = network
    local = True

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch. Tokens are words."""
        questions = [question(request.messages) for request in requests]
        return [
            Completion(
                text=text,
                finish_reason="stop",
                prompt_tokens=len(asked.split()),
                completion_tokens=len(text.split()),
                probability=probability,
            )
            for asked, (text, probability) in zip(
                questions, self._loaded.answered(questions), strict=True
            )
        ]
