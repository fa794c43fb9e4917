"""What is checked before an embedding model is used."""

from collections.abc import Mapping

from finery import Preflight
from finery_retrieve.embed.api import RetrieveApi
from finery_retrieve.embed.folder import RetrieveEmbedder
from finery_retrieve.embed.wheel import RetrieveWheel


class LocalPreflight(Preflight[RetrieveEmbedder | RetrieveWheel]):
    """Lists the packages that the engine needs."""

    def packages(self) -> Mapping[str, str]:
        """What computes the model."""
        return dict.fromkeys(("torch", "transformers"), "finery[train]")


class ApiPreflight(Preflight[RetrieveApi]):
    """Lists the packages that the engine needs."""

    def packages(self) -> Mapping[str, str]:
        """The client library."""
        return {"openai": "finery[openai]"}
