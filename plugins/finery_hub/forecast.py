"""Facts about a model on the hub that are known before it is fetched."""

from collections.abc import Mapping
from typing import Any

from finery import Forecast
from finery_hub.model import HubModel


class ModelForecast(Forecast[HubModel]):
    """The URL of its `config.json`."""

    def facts(self) -> Mapping[str, Any]:
        """(repository, revision) on the hub, and the names of repository and file."""
        step = self.step
        name = "/".join(filter(None, [step.repo, step.file]))
        return {"name": name, "hub": (step.repo, step.revision)}
