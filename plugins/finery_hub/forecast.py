"""What is known about a model on the hub before it is fetched."""

from collections.abc import Mapping
from typing import Any

from finery import Forecast
from finery_hub.model import HubModel


class ModelForecast(Forecast[HubModel]):
    """Where its `config.json` can be requested."""

    def facts(self) -> Mapping[str, Any]:
        """(repository, revision) on the hub, and the names of repository and file."""
        step = self.step
        name = "/".join(filter(None, [step.repo, step.file]))
        return {"name": name, "hub": (step.repo, step.revision)}
