"""Facts about a local model that are known before its step runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery import DataError, Forecast
from finery_local.files import read_object
from finery_local.model import LocalModel
from finery_local.wheel import LocalWheel


class ModelForecast(Forecast[LocalModel]):
    """Its name, and its configuration from its files."""

    def facts(self) -> Mapping[str, Any]:
        """`name`, and `config` or `gguf`: the path of the file."""
        name = {"name": str(self.step.path)}
        for path in self.step.path.paths:
            if path.suffix == ".gguf":
                return {**name, "gguf": path}
            config = path / "config.json" if path.is_dir() else path
            if config.name == "config.json" and config.is_file():
                return {**name, **_configuration(config)}
        return name


def _configuration(path: Path) -> dict[str, Any]:
    """`config`; empty where the file is broken, which the build reports."""
    try:
        return {"config": read_object(path)}
    except DataError:
        return {}


class WheelForecast(Forecast[LocalWheel]):
    """Its name."""

    def facts(self) -> Mapping[str, Any]:
        """`name`, from file and package, since a file's name often has the model's size."""
        return {"name": f"{self.step.file} {self.step.package}"}
