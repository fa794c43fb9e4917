"""How long the threads of a worker spin where they wait for each other, before they sleep.

A training is thousands of small operations a second, each shared by OpenMP's threads. Threads that
sleep at once wake too late for the next one; threads that spin on take turns with the one that they
wait for, where another process needs the core. So it depends on what else runs. Optimizer steps of
90 rows with SmolLM2-135M on two cores, in seconds, by how often a thread looks before it sleeps
(libgomp's GOMP_SPINCOUNT; 300,000 where nobody sets it):

|                       | 2,000 | 5,000 | 10,000 | 20,000 |
| alone                 |   8.6 |   7.1 |    6.6 |    6.3 |
| beside one busy core  |  14.0 |       |   24.1 |   30.2 |
| two trainings at once |  14.9 |  21.2 |   31   |   52   |
"""

import time
from pathlib import Path
from typing import NamedTuple

from finery import cpu_count

LONG = 20_000
SHORT = 2_000
BUSY = 0.5
"""Cores at work from which on a machine isn't quiet."""
_SECONDS = 0.05
_LOOKS = 5
"""A step before may just be ending, which takes a moment of a core."""


def thread_environment(*, alone: bool) -> dict[str, str]:
    """OpenMP's variables for a new worker. alone: no other worker will compute beside it."""
    is_quiet = alone and any(busy_cores() < BUSY for _ in range(_LOOKS))
    return {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(LONG if is_quiet else SHORT)}


def busy_cores() -> float:
    """How many cores all processes of this machine keep busy just now.

    Looks for a twentieth of a second. Where the system doesn't tell, all of them.
    """
    before = _ticks()
    time.sleep(_SECONDS)
    after = _ticks()
    if before is None or after is None or before.all == after.all:
        return cpu_count()
    return after.cores * (1 - (after.idle - before.idle) / (after.all - before.all))


class _Ticks(NamedTuple):
    """What the cores of a machine did since its start, in ticks."""

    idle: int
    all: int
    cores: int


def _ticks() -> _Ticks | None:
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    # user nice system idle iowait irq softirq steal; what follows is in the first two as well
    counts = [int(word) for word in lines[0].split()[1:9]]
    cores = sum(line.startswith("cpu") for line in lines) - 1
    return _Ticks(counts[3] + counts[4], sum(counts), cores)
