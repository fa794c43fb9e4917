"""What can be said of a model behind an API before its step ran."""

from collections.abc import Mapping
from typing import Any

from finery import Forecast
from finery_openai.model import OpenaiModel


class ModelForecast(Forecast[OpenaiModel]):
    """The price, as the recipe gives it."""

    def runtime(self) -> Mapping[str, Any]:
        """What the model's `runtime` will have."""
        return self.step.runtime()
