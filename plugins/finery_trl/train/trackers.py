"""Experiment trackers, by transformers' own integrations; what they get changes no result."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import StepError

if TYPE_CHECKING:
    from finery_trl.settings import Training


def tracking(step: "Training") -> dict[str, Any]:
    """Arguments of a training configuration that send its curves to the trackers asked for.

    Sets, where they aren't set, the environment variables by which each tracker is told where
    to write on this machine. `StepError` for a tracker whose library isn't installed.
    """
    if not step.report_to:
        return {"report_to": "none"}
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
    return {"report_to": list(step.report_to)}
