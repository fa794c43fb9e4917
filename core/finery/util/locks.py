"""Locks of the operating system: of whole files, and one for each key.

They end with their process, so a killed build leaves none, and no command needs to remove any.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finery.errors import UsageError
from finery.util.files import text_or_empty
from finery.util.paths import STORE_VARIABLE

_UNSUPPORTED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""Values of `errno` if the file system doesn't support locks."""


@contextmanager
def file_locked(path: Path, *, alone: bool = True, is_needed: bool = True) -> Iterator[int]:
    """Wait for the lock of a whole file and hold it, alone or with others; yields the open file.

    Raises `UsageError` if the file system doesn't support locks and the lock is needed.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        except OSError as error:
            if is_needed:
                raise _unsupported(path, error) from error
        yield file
    finally:
        os.close(file)


def _unsupported(path: Path, error: OSError) -> UsageError:
    return UsageError(
        f"the file system of {path} doesn't support locks: {error.strerror}",
        fix=f"keep the store on a local disk: set {STORE_VARIABLE} to a folder there",
    )


class KeyLocks:
    """The locks of many keys in one file. The lock of a key is a byte at its own offset.

    Record locks (`fcntl(2)`) belong to a process, so they don't exclude other threads. Closing any
    descriptor of the file releases all of them, so a process opens each file once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(self, key: bytes) -> bool:
        """Acquire the lock of a key without waiting, or return False.

        Raises `UsageError` if the file system doesn't support locks.
        """
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
        except (BlockingIOError, PermissionError):  # systems disagree on which of the two
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            raise _unsupported(self._path, error) from error
        return True

    def release(self, key: bytes) -> None:
        """Release the lock of a key."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _offset(key))

    def close(self) -> None:
        """Release all locks."""
        os.close(self._file)


def _offset(key: bytes) -> int:
    """The first 56 bits of a key, which is a digest. An offset has up to 63."""
    return int.from_bytes(key[:7])


def holder_of(*paths: Path, key: bytes | None = None) -> str:
    """The process that holds a write lock on one of these files, e.g. `process 123 (python x)`.

    key: whose lock it holds in a file of `KeyLocks`. `another process` if it is unknown: outside
    Linux, or if it belongs to another user.
    """
    inodes = {str(os.stat(path).st_ino): path for path in paths if path.exists()}
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return "another process"
    for line in lines:
        fields = line.replace("-> ", "").split()  # `1: POSIX ADVISORY WRITE 123 08:01:456 0 EOF`
        if len(fields) < 6 or fields[3] != "WRITE" or fields[4] == str(os.getpid()):
            continue
        if key is not None and fields[6] != str(_offset(key)):
            continue
        path = inodes.get(fields[5].rpartition(":")[2])
        if path is not None and _has_open(fields[4], path):
            return f"process {fields[4]}{_command(fields[4])}"
    return "another process"


def _has_open(pid: str, path: Path) -> bool:
    """Whether a process has a file open. Other file systems may have the same inode."""
    try:
        return any(
            os.path.samefile(f"/proc/{pid}/fd/{name}", path)
            for name in os.listdir(f"/proc/{pid}/fd")
            if os.path.exists(f"/proc/{pid}/fd/{name}")
        )
    except OSError:
        return False


def _command(pid: str) -> str:
    line = text_or_empty(Path(f"/proc/{pid}/cmdline"))
    return line and f" ({' '.join(line.replace(chr(0), ' ').split())[:80]})"
