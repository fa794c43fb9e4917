"""Locks of the operating system, one for each key.

They die with their process, so that no build that was killed leaves one, and no command has to
remove any.
"""

import errno
import fcntl
import os
from pathlib import Path

from finery.errors import UsageError

_UNSUPPORTED = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL})
"""The `errno` of a lock that the file system can't give."""


class KeyLocks:
    """The locks of many keys in one file: the lock of a key is a byte at an offset of its own.

    Record locks (`fcntl(2)`) belong to a process: a thread doesn't lock out another. Closing any
    descriptor of the file gives up all of them, so a process opens each file once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(self, key: bytes) -> bool:
        """Take the lock of a key, at once; False while another process has it.

        `UsageError` where the file system has no locks.
        """
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
        except (BlockingIOError, PermissionError):  # systems disagree on which of the two
            return False
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            raise UsageError(
                f"the file system of {self._path} has no locks: {error.strerror}",
                fix="keep the store on a local disk: set FINERY_STORE to a folder there",
            ) from error
        return True

    def release(self, key: bytes) -> None:
        """Give up the lock of a key."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _offset(key))

    def close(self) -> None:
        """Give up all locks."""
        os.close(self._file)


def _offset(key: bytes) -> int:
    """The first 56 bits of a key, which is a digest: an offset may have 63."""
    return int.from_bytes(key[:7])


def holder_of(*paths: Path) -> str:
    """Who has a write lock on one of these files: `process 123 (python -m x)`, or a process.

    Known on Linux, for processes that this user may look at.
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
        path = inodes.get(fields[5].rpartition(":")[2])
        if path is not None and _has_open(fields[4], path):
            return f"process {fields[4]}{_command(fields[4])}"
    return "another process"


def _has_open(pid: str, path: Path) -> bool:
    """Whether a process has a file open; inodes of other file systems may be the same."""
    try:
        return any(
            os.path.samefile(f"/proc/{pid}/fd/{name}", path)
            for name in os.listdir(f"/proc/{pid}/fd")
            if os.path.exists(f"/proc/{pid}/fd/{name}")
        )
    except OSError:
        return False


def _command(pid: str) -> str:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return f" ({' '.join(line.split(chr(0)))[:80].strip()})"
