"""What can be said of a model on this machine before its step ran."""

from collections.abc import Mapping
from typing import Any

import msgspec

from finery import Forecast
from finery_local.model import LocalModel


class ModelForecast(Forecast[LocalModel]):
    """Its configuration, straight from its files."""

    def facts(self) -> Mapping[str, Any]:
        """`config`, or `gguf`: the path of the file."""
        for path in self.step.path.paths:
            if path.suffix == ".gguf":
                return {"gguf": path}
            config = path / "config.json" if path.is_dir() else path
            if config.name == "config.json" and config.is_file():
                return {"config": msgspec.json.decode(config.read_bytes())}
        return {}
