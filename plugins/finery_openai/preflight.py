"""Checks before a model behind an API is used."""

from collections.abc import Mapping

from finery import Preflight
from finery_openai.model import OpenaiModel


class ModelPreflight(Preflight[OpenaiModel]):
    """Lists the packages that the engine needs."""

    def packages(self) -> Mapping[str, str]:
        """The client library."""
        return {"openai": "finery[openai]"}
