"""What running builds use, so that collecting garbage takes nothing from them.

**The gate** is a file that builds lock shared, each time for some microseconds, and that garbage
collection locks alone. Only what happens behind it can be relied on by the other side.

**A running build** has a file in `uses/`, locked as long as its process lives. It lists the keys
that the build looks up or records. A build writes a key there behind the gate and *then* reads
the result. If that came before the collector read the file, the collector keeps the result. If it
came later, the build finds the result either kept or gone, and in the latter case runs the step.

**A blob** that isn't in a result yet is protected by its ctime: that of its rename into
`objects/`, behind the gate, or of a `chmod` there when a result with it is taken over from a shared
store. The collector keeps a blob without a result if its ctime isn't earlier than the start of the
oldest running build and of the collection. It compares and removes behind the gate, so it can't
remove a blob that a build has just put in place of an old one. All these times are of the store's
file system, so clocks of other machines don't matter.

**A job** that continues without its build counts like a build, by its folder in `work/`: since it
was submitted, with its inputs and its key.

**Views, links and pinned data** don't show who reads them. They are small, so the collector only
removes them, behind the gate, if no build runs and none has started since it looked at the store:
each build adds a byte to the gate's file when it starts.
"""

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from finery.artifact.manifest import Manifest
from finery.util.files import size_of
from finery.util.locks import file_locked

GATE, USES = "gate", "uses"
JOB = ".job"
"""The end of the name of a job's folder in `work/`."""
STALE_COPY_SECONDS = 86_400
"""Seconds after which an unfinished copy of a blob from a shared store is removed."""

HELD_PREFIX, HELD_LOCK = "held-", "held"
"""Prefix of folders in `work/` that their process removes when it ends; the file that it locks."""


@contextmanager
def held_folder(root: Path) -> Iterator[Path]:
    """A folder in a store for a process that isn't a build. It is garbage when the process died."""
    with gate(root):
        folder = Path(tempfile.mkdtemp(prefix=HELD_PREFIX, dir=root / "work"))
        lock = (folder / HELD_LOCK).open("w")
        with suppress(OSError):  # without locks, nothing is collected either
            fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def remove_unheld(root: Path, *, remove: bool) -> int:
    """Remove such folders of dead processes, and old unfinished copies of blobs; their bytes."""
    total = 0
    for partial_copy in (root / "work").glob("*.part"):
        with suppress(FileNotFoundError):  # it has just arrived
            state = partial_copy.stat()
            if time.time() - state.st_mtime > STALE_COPY_SECONDS:
                total += state.st_size
                if remove:
                    partial_copy.unlink()
    for folder in (root / "work").glob(f"{HELD_PREFIX}*"):
        if not _is_held(folder / HELD_LOCK):
            total += size_of(folder)
            if remove:
                shutil.rmtree(folder, ignore_errors=True)
    return total


def _is_held(path: Path) -> bool:
    """Whether a process may have locked a file."""
    try:
        with path.open("r+b") as file:  # for writing, since NFS wants that
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def gate(root: Path, *, alone: bool = False) -> AbstractContextManager[int]:
    """Go through the gate of a store together with others, or alone; yields its open file.

    Raises `UsageError` if the file system has no locks and the caller must be alone.
    """
    return file_locked(root / GATE, alone=alone, is_needed=alone)


class Uses:
    """The file of a running build. run: its id."""

    def __init__(self, root: Path, run: str) -> None:
        self._root = root
        self._keys: set[str] = set()
        folder = root / USES
        folder.mkdir(exist_ok=True)
        with gate(root) as gate_file:
            os.lseek(gate_file, 0, os.SEEK_END)
            os.write(gate_file, b".")
            self._file, self._path = tempfile.mkstemp(prefix=f"{run}-", dir=folder)
            with suppress(OSError):  # without locks, nothing is collected either
                fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                self._write(f"{os.fstat(self._file).st_ctime_ns}\n")
            except OSError:
                self.close()
                raise

    def add(self, keys: Iterable[str]) -> None:
        """List keys, before their results are read or recorded."""
        new_keys = {*keys} - self._keys
        if new_keys:
            with gate(self._root):
                self._write("".join(f"{key}\n" for key in new_keys))
            self._keys |= new_keys

    def _write(self, text: str) -> None:
        if os.write(self._file, text.encode()) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)

    def close(self) -> None:
        """End the use."""
        with suppress(OSError):
            os.unlink(self._path)
        os.close(self._file)


class InUse(NamedTuple):
    """What running builds and jobs use. since: the start of the oldest, or now, in ns.

    inputs: artifacts that jobs read. builds: how many there are of both.
    """

    keys: set[str]
    since: int
    builds: int
    inputs: list[Manifest] = []


class _TaskInputs(msgspec.Struct):
    """What a job's task says about its inputs."""

    inputs: dict[str, list[tuple[str, Manifest]]]


def read_uses(root: Path, gate_file: int) -> InUse:
    """What running builds use. Removes the files of killed ones. gate_file: it is open."""
    os.ftruncate(gate_file, 0)
    os.utime(gate_file)
    keys, since, builds = set[str](), os.fstat(gate_file).st_ctime_ns, 0
    for path in (root / USES).glob("*"):
        if not _is_held(path):
            path.unlink(missing_ok=True)
            continue
        with suppress(FileNotFoundError):  # it has just ended
            start, *names = path.read_text().splitlines()
            keys.update(names)
            since, builds = min(since, int(start)), builds + 1
    inputs: list[Manifest] = []
    for task in (root / "work").glob(f"*{JOB}/task.json"):
        with suppress(FileNotFoundError):
            since, builds = min(since, task.stat().st_ctime_ns), builds + 1
            inputs_by_name = msgspec.json.decode(task.read_bytes(), type=_TaskInputs).inputs
            inputs += (
                manifest for artifacts in inputs_by_name.values() for _, manifest in artifacts
            )
            keys.add(task.parent.name.removesuffix(JOB))
    return InUse(keys, since, builds, inputs)


def is_quiet(gate_file: int) -> bool:
    """Whether no build has started since the last `read_uses`. gate_file: the gate's open file."""
    return os.fstat(gate_file).st_size == 0
