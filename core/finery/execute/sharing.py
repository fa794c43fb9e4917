"""Which step uses which GPU, so that steps of different builds don't share one either.

Each GPU has a file in the user's cache that is locked while a step uses it. The step's process
inherits the lock, so the GPU is free once that process has ended, however it ends.

Steps of one build that state `gpu_memory` share a GPU if all of them fit into its memory. Their
processes inherit the same lock.
"""

import fcntl
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finery.execute.executor import Task
from finery.execute.gpu import Gpu
from finery.execute.gpus import named_gpus, visible_gpus
from finery.util.paths import cache_folder
from finery.util.text import counted

SHARE_VARIABLE = "FINERY_SHARE_GPUS"
"""The environment variable that lets steps use the GPUs of other builds, if it isn't empty."""
GIB = 2**30
_UNSAFE = re.compile(r"[^A-Za-z0-9-]+")


class GpuLease(NamedTuple):
    """The GPUs of a step.

    locks: id → open file that its process must inherit, and that is then closed here. warning: why
    other builds don't see that it uses them.
    """

    gpus: list[Gpu]
    locks: dict[str, int]
    warning: str = ""

    def close(self) -> None:
        """Close the files in this process."""
        for lock in self.locks.values():
            os.close(lock)

    def uses(self, task: Task) -> "dict[str, GpuUse]":
        """Id → how the step uses it. Files that other steps may need are opened once more."""
        memory = task.resources.gpu_memory
        locks = {gpu: os.dup(lock) for gpu, lock in self.locks.items() if memory}
        return {gpu.id: GpuUse(task.step, memory, locks.get(gpu.id)) for gpu in self.gpus}


class GpuUse(NamedTuple):
    """A step of this build that uses a GPU.

    memory: bytes that it states; 0: it has the GPU for itself. lock: the open file of the GPU, if
    another step may share it.
    """

    step: str
    memory: int = 0
    lock: int | None = None


class GpuWait(NamedTuple):
    """Why a step must wait, and the ids of the GPUs that it waits for."""

    reason: str
    wanted: set[str]


def lease_gpus(
    task: Task, uses_by_gpu: Mapping[str, Sequence[GpuUse]], waited_for: Mapping[str, str]
) -> GpuLease | GpuWait:
    """Take as many GPUs for a step as it needs, or as there are, those with most free memory first.

    uses_by_gpu: id → steps, of the GPUs that this build uses. waited_for: id → step, of those that
    earlier steps wait for. The step gets all of its GPUs or none, so that two builds never wait for
    each other. It shares one only if no other is left. Raises `UsageError` if the step names a GPU
    that isn't visible.
    """
    gpus = named_gpus(task.gpu_names) if task.gpu_names else visible_gpus()
    count = min(task.gpus, len(gpus))
    lease, foreign = GpuLease([], {}), list[Gpu]()
    for gpu in sorted(gpus, key=lambda gpu: (gpu.id in uses_by_gpu, -(gpu.free // GIB))):
        if len(lease.gpus) == count:
            break
        uses = uses_by_gpu.get(gpu.id, ())
        if gpu.id in waited_for or not has_gpu_space(gpu, uses, task.resources.gpu_memory):
            continue
        try:
            if uses and (lock := uses[0].lock) is not None:
                lease.locks[gpu.id] = os.dup(lock)
            elif not uses and not os.environ.get(SHARE_VARIABLE):
                lease.locks[gpu.id] = _lock(gpu, task)
        except BlockingIOError:
            foreign.append(gpu)
            continue
        except OSError as error:
            lease = lease._replace(warning=f"other builds can't see that it is used: {error}")
        lease.gpus.append(gpu)
    if len(lease.gpus) == count:
        return lease
    lease.close()
    return GpuWait(
        _waiting_reason(gpus, count, uses_by_gpu, waited_for, foreign), {gpu.id for gpu in gpus}
    )


def has_gpu_space(gpu: Gpu, uses: Sequence[GpuUse], memory: int) -> bool:
    """Whether another step can use a GPU beside these. memory: bytes that it states, or 0.

    Memory that the steps of this build don't account for is that of other programs.
    """
    if not uses:
        return True
    if not memory or not all(use.memory for use in uses):
        return False
    stated = sum(use.memory for use in uses)
    return stated + memory + max(0, gpu.used - stated) <= gpu.memory


def _lock(gpu: Gpu, task: Task) -> int:
    """Lock a GPU's file. Raises `BlockingIOError` while another step holds it."""
    path = _lock_file(gpu)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        about = {"pid": os.getpid(), "step": task.step, "recipe": task.recipe}
        os.truncate(lock, 0)
        os.write(lock, json.dumps(about).encode())
    except BaseException:
        os.close(lock)
        raise
    return lock


def _lock_file(gpu: Gpu) -> Path:
    folder = cache_folder()
    if folder is None:
        raise FileNotFoundError("the user has no home folder")
    # A home folder may be shared by machines, and only UUIDs differ between them.
    name = gpu.uuid or f"{platform.node()}-{gpu.id}"
    return folder / "gpus" / f"{_UNSAFE.sub('-', name)}.lock"


def _waiting_reason(
    gpus: Sequence[Gpu],
    count: int,
    uses_by_gpu: Mapping[str, Sequence[GpuUse]],
    waited_for: Mapping[str, str],
    foreign: Sequence[Gpu],
) -> str:
    """What a step waits for, and what uses it. foreign: the GPUs that other builds use."""
    reasons = [
        f"{g.label} is used by step '{use.step}'" for g in gpus for use in uses_by_gpu.get(g.id, ())
    ]
    reasons += [
        f"step '{waited_for[g.id]}' waits for {g.label}, too"
        for g in gpus
        if g.id in waited_for and g.id not in uses_by_gpu
    ]
    reasons += [f"{g.label} is used by {_foreign_user(g)}" for g in foreign]
    reasons += [f"{SHARE_VARIABLE}=1 shares GPUs with other builds"] if foreign else []
    needed = "a GPU" if count == 1 else counted(count, "GPU")
    return f"waiting for {needed}: {'; '.join(reasons)}"


def _foreign_user(gpu: Gpu) -> str:
    """The step of another build that uses a GPU."""
    try:
        about: dict[str, Any] = json.loads(_lock_file(gpu).read_bytes())
        return f"step '{about['step']}' of {about['recipe']} (process {about['pid']})"
    except (OSError, ValueError, KeyError, TypeError):  # it is being written
        return "another build"
