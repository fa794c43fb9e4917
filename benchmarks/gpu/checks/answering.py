"""Answers by finery's engine, with 16, 64 and 256 rows at once."""

import time
from typing import Any
from unittest import mock

from gpu import models, rows
from gpu.check import Facts, Failed, Place

ROWS = (16, 64, 256)
MAX_TOKENS = 32


def answers(place: Place) -> Facts:
    """Answer 256 prompts in batches of each size; tokens per second and the peak memory."""
    from finery import Model
    from finery.testing import TestJob

    folder = models.model(place, "small")
    model = Model(folder, meta={"format": "transformers", "name": "check"})
    data = rows.answer_rows(ROWS[-1], 48 if place.tiny else 128)
    prompts: Any = [[{"role": "user", "content": row["prompt"]}] for row in data]
    engine = TestJob(place.folder, seed=None).engine(model)
    facts: Facts = {}
    for size in ROWS:
        with _room(size):
            facts |= _measured(place, engine, prompts, size)
    return facts


def _measured(place: Place, engine: Any, prompts: Any, size: int) -> Facts:
    """The figures of one size, with the model loaded."""
    import torch

    limit = 4 if place.tiny else MAX_TOKENS
    engine.generate(prompts[:2], max_tokens=1)  # loads the model
    on_gpu = place.device == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    given = engine.generate(prompts, max_tokens=limit)
    seconds = time.perf_counter() - began
    if len(given) != len(prompts):
        raise Failed(f"{len(given)} answers to {len(prompts)} prompts")
    produced = sum(answer.completion_tokens or 0 for answer in given)
    facts: Facts = {f"tokens_per_second_{size}": round(produced / seconds)}
    if on_gpu:
        facts[f"peak_gib_{size}"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    return facts


def _room(size: int) -> Any:
    """Lets the engine answer so many rows at once, whatever the GPU's memory."""
    from finery_transformers.engine import Room

    class Fixed(Room):
        @classmethod
        def of(cls, model: Any) -> Any:
            return Room(size, 2**30)

    return mock.patch("finery_transformers.engine.Room", Fixed)
