"""Locks of the operating system, one for each key.

They die with their process, so that no build that was killed leaves one, and no command has to
remove any.
"""

import fcntl
import os
from pathlib import Path


class KeyLocks:
    """The locks of many keys in one file: the lock of a key is a byte at an offset of its own.

    Record locks (`fcntl(2)`) belong to a process: a thread doesn't lock out another. Closing any
    descriptor of the file gives up all of them, so a process opens each file once.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def acquire(self, key: bytes) -> bool:
        """Take the lock of a key, at once; False while another process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
        except (BlockingIOError, PermissionError):  # systems disagree on which of the two
            return False
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
