"""Errors of a GPU whose memory runs out: each says what for, and what to change.

The memory is taken by this process, so that finery runs into the driver's own limit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpu import models, rows
from gpu.check import Facts, Failed, Missing, Place
from gpu.checks.trainings import common
from gpu.project import Project, end_of, recipe


def loading(place: Place) -> Facts:
    """Less memory than the weights need."""
    return _refused(place, 1.2, "not enough GPU memory to load the model", _training(1, 64))


def training(place: Place) -> Facts:
    """Memory for the weights, and not for 16 rows at once."""
    return _refused(place, 4.0, "not enough memory for 16 rows", _training(16, 768))


def answering(place: Place) -> Facts:
    """Memory for the weights, and not for the answers to long prompts."""
    test = {"use": "eval.exact", "models": "base", "rows": "rows", "max_tokens": 512}
    made = {"rows": rows.answer_rows(256, 1536), "evaluate": {"test": test}}
    return _refused(place, 3.0, "not enough GPU memory", made)


def _training(size: int, tokens: int) -> dict[str, Any]:
    step = {**common(size), "max_length": 2048}
    return {"rows": rows.answer_rows(2 * size, tokens), "train": {"training": step}}


def _refused(place: Place, gib: float, text: str, made: dict[str, Any]) -> Facts:
    """Build with so much memory left. Raises `Failed` unless the error contains the text."""
    folder = models.model(place, "small")
    data = made.pop("rows")
    project = Project(place.folder, recipe(place.folder, folder, data, **made))
    with _only(gib * 2**30):
        said = project.refuse()
    if text not in " ".join(said.split()):
        raise Failed(f"the error lacks {text!r}: {end_of(said)}")
    return {"left_gib": gib, "error": text}


@contextmanager
def _only(free: float) -> Iterator[None]:
    """Hold the GPU's memory except so many bytes."""
    import torch

    torch.ones(1, device="cuda")  # creates the context first
    available, _ = torch.cuda.mem_get_info()
    if available < free:
        raise Missing(f"Only {available / 2**30:.1f} GiB of the GPU's memory are free")
    held = torch.empty(int(available - free), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()
