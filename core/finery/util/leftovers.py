"""The lock on a step's scratch folder, and processes that outlive a build that was killed.

A step's child processes may write to its scratch folder after the build and the worker are gone. So
they inherit a lock on it: as their standard input, an empty file that is locked, and by name in an
environment variable. The next build ends whoever has either before it uses the folder.
"""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from finery.errors import StepError

MARK = "FINERY_SCRATCH"
"""The environment variable of a step's child processes that names the scratch folder."""
SECONDS = 5
"""How long to wait for processes to end that were killed."""


def lock_path(scratch: Path) -> Path:
    """The file that is locked while a scratch folder is in use."""
    return scratch.with_name(f"{scratch.name}.lock")


@contextmanager
def scratch_lock(scratch: Path, *, inherited: bool) -> Iterator[Callable[[], None]]:
    """Gives a function that locks a scratch folder until the end of the block.

    inherited: whether child processes that are started meanwhile inherit the lock. For a process
    that runs one step at a time, with a standard input that it doesn't need.
    """
    held: list[int] = []

    def take() -> None:
        if held:
            return
        held.append(os.open(lock_path(scratch), os.O_RDONLY | os.O_CREAT, 0o644))
        with suppress(OSError):  # without locks, the environment variable has to do
            fcntl.flock(held[0], fcntl.LOCK_SH | fcntl.LOCK_NB)
        if inherited:
            os.dup2(held[0], 0)
            os.environ[MARK] = str(scratch)

    try:
        yield take
    finally:
        for file in held:
            if inherited:
                os.environ.pop(MARK, None)
                nothing = os.open(os.devnull, os.O_RDONLY)
                os.dup2(nothing, 0)
                os.close(nothing)
            os.close(file)


def is_in_use(scratch: Path) -> bool:
    """Whether a process has a scratch folder's lock."""
    try:
        file = os.open(lock_path(scratch), os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here
        return False
    finally:
        os.close(file)
    return False


def end_users(scratch: Path) -> None:
    """End the processes that a step of a killed build left, so that its scratch folder is free.

    For who has the lock of the step's key: no build runs the step. `StepError` where a process
    can't be found or ended.
    """
    deadline = time.monotonic() + SECONDS
    while (users := _users(scratch)) or is_in_use(scratch):
        for pid in users:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            named = ", ".join(map(str, users))
            raise StepError(
                f"its scratch folder {scratch} is still in use by "
                + (f"process {named}" if named else "a process")
                + ", which a killed build left",
                fix=f"end it: kill -9 {named}" if named else "end it, then build again",
            )
        time.sleep(0.02)


def _users(scratch: Path) -> list[int]:
    """Processes with the mark or the lock of a scratch folder; known on Linux."""
    mark, lock = f"{MARK}={scratch}".encode(), str(lock_path(scratch))
    pids = [int(name) for name in _names("/proc") if name.isdecimal()]
    return [pid for pid in pids if pid != os.getpid() and _uses(pid, mark, lock)]


def _uses(pid: int, mark: bytes, lock: str) -> bool:
    try:
        if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return True
        return any(os.readlink(f"/proc/{pid}/fd/{n}") == lock for n in _names(f"/proc/{pid}/fd"))
    except OSError:  # another user's, or ended just now
        return False


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
