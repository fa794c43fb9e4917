"""Facts about a model behind an API that are known before its step runs."""

from collections.abc import Mapping
from typing import Any

from finery import Forecast
from finery_openai.model import OpenaiModel


class ModelForecast(Forecast[OpenaiModel]):
    """The price from the recipe."""

    def runtime(self) -> Mapping[str, Any]:
        """The model's future `runtime`."""
        return self.step.runtime()
