"""How fast a training is likely to be on a machine that hasn't run one like it yet.

The work on a token is counted in multiply-adds of its weights (Kaplan et al. 2020,
https://arxiv.org/abs/2001.08361, section 2.1): two operations a weight forward, two for the
gradients of the activations, two for those of the weights where these are trained. Attention adds
products of each token with the others of its row, which have no weights (Chowdhery et al. 2022,
https://arxiv.org/abs/2204.02311, appendix B): four operations a feature, layer and token forward,
and eight for the gradients of both factors.

On a CPU it is divided by what small matrix products reach. That is measured once a day and kept in
the user's cache. A GPU takes seconds to start, so the figure in its data sheet is used instead.
"""

import contextlib
import json
import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

from finery import cpu_count
from finery_trl.estimate.memory import Architecture

DAY = 24 * 3600
SIZE, TOGETHER = 48, 20
"""Rows and columns of the measured products, and how many are timed together. One takes 3 µs on one
core: too short for other programs to disturb all of them, or for the library to use more cores."""
MEASURED_SECONDS = 0.03
CPU_FLOPS = 40e9
"""Of a core where nothing can be measured: one with AVX2 in fp32."""
CPU_SHARE = {"bf16": 1.8, "fp32": 0.9}
"""What trainings reach of the measured fp32 product on each core: larger products are faster, and
in bf16 still more so. By the training benchmark in docs/reference/benchmarks.md."""
CPU_ATTENTION = 2.5
"""How many times as long an operation of attention takes on a CPU: its products are small. By the
training of recipes/tool-calls on two cores, in rows of 534 tokens on average."""
GPU_FLOPS = {
    "B200": 2250e12, "H200": 990e12, "H100": 990e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
    "A10G": 70e12, "A10": 125e12, "T4": 65e12, "V100": 125e12, "RTX PRO 6000": 500e12,
    "5090": 210e12, "4090": 165e12, "4080": 97e12, "3090": 71e12, "3080": 60e12, "3060": 26e12,
    "MI355X": 2500e12, "MI350X": 2300e12, "MI325X": 1307e12, "MI300X": 1307e12, "MI250X": 191e12,
    "MI210": 181e12, "MI100": 92e12,
}  # fmt: skip
"""Dense 16-bit operations a second, as their data sheets state, by a part of the GPU's name."""
OTHER_GPU_FLOPS = 60e12
GPU_SHARE = 0.3
"""What trainings of large models reach of the data sheet's figure."""
GPU_LAYER_SECONDS = 0.0015
"""Of a block of layers, forward and backward, however small: the launches of its kernels."""
START_SECONDS = 12
"""Importing libraries, loading the model and validating at least once."""


class Speed(NamedTuple):
    """Tokens a second, and where the figure comes from, as the end of a sentence."""

    tokens: float
    source: str


class Work(NamedTuple):
    """What is done with each token.

    adapter: only an adapter is trained. checkpointing: the forward pass is done twice. compares:
    a reference model sees the rows too, and each row has two answers. batch: tokens in memory at
    once. length: tokens of a row.
    """

    adapter: bool
    checkpointing: bool
    compares: bool
    batch: float
    length: float = 0

    def operations(self, model: Architecture, attention_cost: float = 1) -> float:
        """Floating-point operations for each token of a row.

        attention_cost: as how many operations one of attention counts.
        """
        weights = 2 * model.parameters()
        features = model.layers * model.heads * model.head_size
        attention = attention_cost * 4 * features * self.length
        forward = weights + attention
        backward = weights * (1 if self.adapter else 2) + 2 * attention
        total = forward * (2 if self.checkpointing else 1) + backward
        return 2 * (total + forward) if self.compares else total


def cpu_speed(model: Architecture, work: Work, *, bf16: bool) -> Speed:
    """What this machine's CPU should reach."""
    flops, source = cpu_flops()
    share = CPU_SHARE["bf16" if bf16 else "fp32"]
    return Speed(share * flops / work.operations(model, CPU_ATTENTION), source)


def gpu_speed(model: Architecture, work: Work, name: str) -> Speed:
    """What a GPU of that name should reach."""
    known = next((part for part in GPU_FLOPS if part in name), None)
    flops = GPU_FLOPS[known] if known else OTHER_GPU_FLOPS
    tokens = GPU_SHARE * flops / work.operations(model)
    most = work.batch / (model.layers * GPU_LAYER_SECONDS)
    source = f"by the data sheet of the {known}" if known else "by a typical GPU"
    return Speed(min(tokens, most), source)


def cpu_flops() -> tuple[float, str]:
    """fp32 operations a second of all cores in a matrix product, and how that is known."""
    path = _cache_file()
    known = _kept(path)
    if known is not None:
        return known, "by a short measurement here"
    try:
        measured = _measure()
    except ImportError:
        return CPU_FLOPS * cpu_count(), "by a typical CPU"
    # Without a place to keep it, the next plan measures again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{path.name}.{os.getpid()}")
        staged.write_text(json.dumps(measured), encoding="utf-8")
        staged.replace(path)
    return measured, "by a short measurement here"


def _measure() -> float:
    import numpy as np

    matrix = np.full((SIZE, SIZE), 0.5, dtype=np.float32)
    product = np.empty_like(matrix)
    began, best = time.perf_counter(), float("inf")
    # The fastest of many counts: other programs slow some of them down.
    while time.perf_counter() - began < MEASURED_SECONDS:
        start = time.perf_counter()
        for _ in range(TOGETHER):
            np.matmul(matrix, matrix, out=product)
        best = min(best, (time.perf_counter() - start) / TOGETHER)
    return 2 * SIZE**3 / best * cpu_count()


def _kept(path: Path) -> float | None:
    """What was measured in the last day, None where nothing usable was."""
    try:
        if time.time() - path.stat().st_mtime > DAY:
            return None
        measured = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return measured if isinstance(measured, float) and measured > 0 else None


def _cache_file() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "finery" / f"cpu-speed-{platform.node() or 'machine'}-{cpu_count()}.json"
