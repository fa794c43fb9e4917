"""Several processes: one training on several GPUs, and several trainings on one."""

from typing import Any

from gpu import models, rows
from gpu.check import Facts, Failed, Missing, Place
from gpu.checks.trainings import common
from gpu.project import Project, end_of, recipe


def processes(place: Place) -> Facts:
    """A training in two processes: NCCL on GPUs, gloo on CPUs."""
    if place.device == "cuda":
        import torch

        if torch.cuda.device_count() < 2:
            return _refusal(place)
    project = _project(place, {"training": {**common(4), **_launched()}})
    project.build()
    return {"steps": project.manifest("training")["meta"]["steps"]}


def _refusal(place: Place) -> Facts:
    """With one GPU, finery must say so before it loads anything; the training itself is missing."""
    text = _project(place, {"training": {**common(4), **_launched()}}).refuse()
    expected = "2 processes need 2 GPUs, but this machine shows 1"
    if expected not in " ".join(text.split()):
        raise Failed(f"the error lacks {expected!r}: {end_of(text)}")
    raise Missing("Two processes need two GPUs, and one is visible (finery refuses it in words)")


def trainings(place: Place) -> Facts:
    """Two trainings in one build with `--jobs 2`; on one GPU, the second waits for the first."""
    steps = {name: {**common(2), "learning_rate": rate} for name, rate in RATES.items()}
    project = _project(place, steps)
    project.build("--jobs", "2")
    speeds = [project.manifest(n)["runtime"]["training"]["tokens_per_second"] for n in RATES]
    return {"tokens_per_second": speeds}


RATES = {"one": 1e-4, "two": 2e-4}


def _launched() -> dict[str, Any]:
    return {"per_device_train_batch_size": 2, "launch": {"processes": 2}}


def _project(place: Place, train: dict[str, Any]) -> Project:
    data = rows.answer_rows(8 if place.tiny else 40, 48 if place.tiny else 256)
    folder = models.model(place, "small")
    return Project(place.folder, recipe(place.folder, folder, data, train=train))
