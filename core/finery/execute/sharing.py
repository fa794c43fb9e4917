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

SHARE = "FINERY_SHARE_GPUS"
"""The environment variable that lets steps use the GPUs of other builds, if it isn't empty."""
GIB = 2**30
_UNSAFE = re.compile(r"[^A-Za-z0-9-]+")


class Taken(NamedTuple):
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

    def uses(self, task: Task) -> "dict[str, Use]":
        """Id → how the step uses it. Files that other steps may need are opened once more."""
        memory = task.resources.gpu_memory
        locks = {gpu: os.dup(lock) for gpu, lock in self.locks.items() if memory}
        return {gpu.id: Use(task.step, memory, locks.get(gpu.id)) for gpu in self.gpus}


class Use(NamedTuple):
    """A step of this build that uses a GPU.

    memory: bytes that it states; 0: it has the GPU for itself. lock: the open file of the GPU, if
    another step may share it.
    """

    step: str
    memory: int = 0
    lock: int | None = None


class Busy(NamedTuple):
    """Why a step must wait, and the ids of the GPUs that it waits for."""

    reason: str
    wanted: set[str]


def take(task: Task, used: Mapping[str, Sequence[Use]], wanted: Mapping[str, str]) -> Taken | Busy:
    """Take as many GPUs for a step as it needs, or as there are, those with most free memory first.

    used: id → steps, of the GPUs that this build uses. wanted: id → step, of those that earlier
    steps wait for. The step gets all of its GPUs or none, so that two builds never wait for each
    other. It shares one only if no other is left. Raises `UsageError` if the step names a GPU that
    isn't visible.
    """
    gpus = named_gpus(task.gpu_names) if task.gpu_names else visible_gpus()
    count = min(task.gpus, len(gpus))
    taken, others = Taken([], {}), list[Gpu]()
    for gpu in sorted(gpus, key=lambda gpu: (gpu.id in used, -(gpu.free // GIB))):
        if len(taken.gpus) == count:
            break
        uses = used.get(gpu.id, ())
        if gpu.id in wanted or not has_space(gpu, uses, task.resources.gpu_memory):
            continue
        try:
            if uses and (lock := uses[0].lock) is not None:
                taken.locks[gpu.id] = os.dup(lock)
            elif not uses and not os.environ.get(SHARE):
                taken.locks[gpu.id] = _lock(gpu, task)
        except BlockingIOError:
            others.append(gpu)
            continue
        except OSError as error:
            taken = taken._replace(warning=f"other builds can't see that it is used: {error}")
        taken.gpus.append(gpu)
    if len(taken.gpus) == count:
        return taken
    taken.close()
    return Busy(_reason(gpus, count, used, wanted, others), {gpu.id for gpu in gpus})


def has_space(gpu: Gpu, uses: Sequence[Use], memory: int) -> bool:
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
    path = _file(gpu)
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


def _file(gpu: Gpu) -> Path:
    folder = cache_folder()
    if folder is None:
        raise FileNotFoundError("the user has no home folder")
    # A home folder may be shared by machines, and only UUIDs differ between them.
    name = gpu.uuid or f"{platform.node()}-{gpu.id}"
    return folder / "gpus" / f"{_UNSAFE.sub('-', name)}.lock"


def _reason(
    gpus: Sequence[Gpu],
    count: int,
    used: Mapping[str, Sequence[Use]],
    wanted: Mapping[str, str],
    others: Sequence[Gpu],
) -> str:
    """What a step waits for, and what uses it. others: the GPUs that other builds use."""
    reasons = [
        f"{g.label} is used by step '{use.step}'" for g in gpus for use in used.get(g.id, ())
    ]
    reasons += [
        f"step '{wanted[g.id]}' waits for {g.label}, too"
        for g in gpus
        if g.id in wanted and g.id not in used
    ]
    reasons += [f"{g.label} is used by {_user(g)}" for g in others]
    reasons += [f"{SHARE}=1 shares GPUs with other builds"] if others else []
    what = "a GPU" if count == 1 else counted(count, "GPU")
    return f"waiting for {what}: {'; '.join(reasons)}"


def _user(gpu: Gpu) -> str:
    """The step of another build that uses a GPU."""
    try:
        about: dict[str, Any] = json.loads(_file(gpu).read_bytes())
        return f"step '{about['step']}' of {about['recipe']} (process {about['pid']})"
    except (OSError, ValueError, KeyError, TypeError):  # it is being written
        return "another build"
