"""Experiment trackers, through the integrations of transformers."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING

from finery import StepError

if TYPE_CHECKING:
    from finery_trl.settings import Training


def ready_trackers(step: "Training") -> list[str]:
    """The step's trackers, as `report_to` of transformers takes them, after setting their folders.

    The folders go into the environment variables that the trackers read, unless those are set.
    Raises `StepError` for a tracker whose library isn't installed.
    """
    for name in step.report_to:
        if importlib.util.find_spec(name) is None:
            raise StepError(f"report_to: {name} isn't installed", fix=f"pip install {name}")
    folder = Path(step.tracking_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    places = {
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
        "WANDB_DIR": str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    for variable, place in places.items():
        os.environ.setdefault(variable, place)
    return list(step.report_to)
