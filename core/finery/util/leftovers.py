"""The lock on a step's scratch folder, and processes that outlive a killed build.

Child processes of a step may write to its scratch folder after the build and the worker are dead.
So they inherit a lock on it, which is a locked empty file as their standard input, and its path in
an environment variable. The next build ends processes with either before it uses the folder.
"""

import fcntl
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finery.errors import StepError

SCRATCH_VARIABLE = "FINERY_SCRATCH"
"""Environment variable of a step's child processes with the path of the scratch folder."""
KILL_SECONDS = 5
"""How long to wait for killed processes to end."""


def lock_path(scratch: Path) -> Path:
    """The file that is locked while a scratch folder is in use."""
    return scratch.with_name(f"{scratch.name}.lock")


@contextmanager
def scratch_lock(scratch: Path, *, inherited: bool) -> Iterator[Callable[[], None]]:
    """A function that locks a scratch folder until the end of the block.

    inherited: whether child processes inherit the lock. Only for a process that runs one step at a
    time and doesn't need its standard input.
    """
    lock_files: list[int] = []

    def take() -> None:
        if lock_files:
            return
        lock_files.append(os.open(lock_path(scratch), os.O_RDONLY | os.O_CREAT, 0o644))
        with suppress(OSError):  # without locks, only the environment variable is inherited
            fcntl.flock(lock_files[0], fcntl.LOCK_SH | fcntl.LOCK_NB)
        if inherited:
            os.dup2(lock_files[0], 0)
            os.environ[SCRATCH_VARIABLE] = str(scratch)

    try:
        yield take
    finally:
        for file in lock_files:
            if inherited:
                os.environ.pop(SCRATCH_VARIABLE, None)
                nothing = os.open(os.devnull, os.O_RDONLY)
                os.dup2(nothing, 0)
                os.close(nothing)
            os.close(file)


def reads_path(scratch: Path) -> Path:
    """The file with what earlier attempts at a step read, see `finery.execute.observed`."""
    return scratch.with_name(f"{scratch.name}.reads")


def seconds_path(scratch: Path) -> Path:
    """The file with the time that earlier attempts took, see `earlier_seconds`."""
    return scratch.with_name(f"{scratch.name}.seconds")


def earlier_seconds(scratch: Path) -> float:
    """The time that earlier attempts at a step took, each until its last change to the scratch
    folder.

    Later work of such an attempt isn't counted. Must be called once, when an attempt begins,
    because it reads the modification time of the lock's file. 0.0 if no earlier attempt used the
    folder.
    """
    lock, seconds_file = lock_path(scratch), seconds_path(scratch)
    try:
        began = lock.stat().st_mtime
    except FileNotFoundError:
        return 0.0
    changed = last_change(scratch) if scratch.exists() else began
    seconds = max(0.0, changed - began) if math.isfinite(changed) else 0.0
    with suppress(OSError, ValueError):
        seconds += float(seconds_file.read_text(encoding="utf-8"))
    seconds_file.write_text(str(seconds), encoding="utf-8")
    os.utime(lock)
    return seconds


def last_change(folder: Path) -> float:
    """The latest modification in a folder, in seconds since the epoch; infinite if it vanishes."""
    try:
        return max(os.lstat(path).st_mtime for path in (folder, *folder.rglob("*")))
    except OSError:  # it is being removed
        return math.inf


def is_in_use(scratch: Path) -> bool:
    """Whether a process holds a scratch folder's lock."""
    try:
        file = os.open(lock_path(scratch), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks on this file system
        return False
    finally:
        os.close(file)
    return False


def kill_scratch_users(scratch: Path) -> None:
    """End the processes of a killed build that use a step's scratch folder.

    The caller must hold the lock of the step's key, so no build is running the step. Raises
    `StepError` if a process can't be found or ended.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while (users := _scratch_users(scratch)) or is_in_use(scratch):
        for pid in users:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            pids = ", ".join(map(str, users))
            raise StepError(
                f"its scratch folder {scratch} is in use by "
                + (f"process {pids}" if pids else "a process")
                + ", which is left from a killed build",
                fix=f"end it: kill -9 {pids}" if pids else "end it, then build again",
            )
        time.sleep(0.02)


def _scratch_users(scratch: Path) -> list[int]:
    """Processes with the mark or the lock of a scratch folder. Works on Linux."""
    mark, lock = f"{SCRATCH_VARIABLE}={scratch}".encode(), str(lock_path(scratch))
    users = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        with suppress(OSError):  # of another user, or ended meanwhile
            marks = Path("/proc", name, "environ").read_bytes().split(b"\0")
            files = Path("/proc", name, "fd")
            if mark in marks or any(os.readlink(file) == lock for file in files.iterdir()):
                users.append(int(name))
    return users
