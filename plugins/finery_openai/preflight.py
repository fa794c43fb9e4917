"""What is checked of a model behind an API before it is prompted."""

from collections.abc import Mapping

from finery import Preflight
from finery_openai.model import OpenaiModel


class ModelPreflight(Preflight[OpenaiModel]):
    """Says what the engine needs."""

    def packages(self) -> Mapping[str, str]:
        """The client."""
        return {"openai": "finery[openai]"}
