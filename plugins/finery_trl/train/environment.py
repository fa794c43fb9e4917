"""Environment variables of workers: for threads and for GPU memory.

They decide how long the threads of a worker spin while they wait for each other, before they sleep.

A training runs thousands of small operations a second, each shared by the threads of OpenMP.
Threads that sleep at once wake too late for the next operation. Threads that keep spinning compete
with the thread that they wait for if another process needs the core. So the best value depends on
the load. Seconds for optimizer steps of 90 rows with SmolLM2-135M on two cores, by how often a
thread checks before it sleeps (GOMP_SPINCOUNT of libgomp; 300,000 by default):

|                       | 2,000 | 5,000 | 10,000 | 20,000 |
| alone                 |   8.6 |   7.1 |    6.6 |    6.3 |
| beside one busy core  |  14.0 |       |   24.1 |   30.2 |
| two trainings at once |  14.9 |  21.2 |   31   |   52   |
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from finery.advanced import cpu_count

LONG = 20_000
SHORT = 2_000
BUSY = 0.5
"""Busy cores from which a machine doesn't count as quiet."""
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The environment variable that configures torch's allocator, and its name before torch 2.9."""
_SECONDS = 0.05
_LOOKS = 5
"""A previous step may just be ending, which keeps a core busy for a moment."""


def thread_environment(*, alone: bool, here: bool) -> dict[str, str]:
    """OpenMP variables for a new worker. alone: no other worker will compute at the same time.

    here: on this machine, which may be busy otherwise. A job elsewhere has its own cores.
    """
    is_quiet = alone and (not here or any(busy_cores() < BUSY for _ in range(_LOOKS)))
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(LONG if is_quiet else SHORT)}


def allocator_environment() -> Mapping[str, str]:
    """Let torch enlarge blocks of GPU memory. Batches of many lengths otherwise leave gaps.

    It has no effect on a CPU, and a setting of the user's own is kept.
    """
    is_set = any(name in os.environ for name in ALLOCATOR)
    return {} if is_set else {ALLOCATOR[0]: "expandable_segments:True"}


def busy_cores() -> float:
    """How many cores the processes of this machine keep busy at the moment.

    Measures for a twentieth of a second. All cores if the system doesn't provide the numbers.
    """
    before = _ticks()
    time.sleep(_SECONDS)
    after = _ticks()
    if before is None or after is None or before.all == after.all:
        return cpu_count()
    return after.cores * (1 - (after.idle - before.idle) / (after.all - before.all))


class _Ticks(NamedTuple):
    """Times of all cores since the machine's start, in ticks."""

    idle: int
    all: int
    cores: int


def _ticks() -> _Ticks | None:
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    # user nice system idle iowait irq softirq steal; the rest is included in the first two
    counts = [int(word) for word in lines[0].split()[1:9]]
    cores = sum(line.startswith("cpu") for line in lines) - 1
    return _Ticks(counts[3] + counts[4], sum(counts), cores)
