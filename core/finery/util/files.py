"""Files: which can be read, what they hold, and when a stat can be trusted to show a change."""

import errno
import os
import stat
from pathlib import Path

COARSE_NS = 2_000_000_000
"""The grain of file systems that keep whole seconds, or two of them as FAT does."""
FileState = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, mtime and ctime in nanoseconds."""
ABSENT: FileState = (0, 0, 0, 0, 0)
"""The state of a file that isn't there."""
FINE_NS = 100_000_000
"""Ten times the grain of the others: the kernel stamps files by its tick, 1 to 10 ms."""


def settled(mtime: int, ctime: int, now: int) -> bool:
    """Whether a file last changed so long before `now` that a further change would show.

    All in nanoseconds since the epoch. Times without a fraction of a second come from a coarse
    file system.
    """
    last = max(mtime, ctime)
    return now - last > (FINE_NS if last % 1_000_000_000 else COARSE_NS)


def file_state(path: str, folder: int | None = None) -> FileState:
    """What tells whether a file or folder changed; `ABSENT` where there is none.

    folder: what a relative path is relative to, as an open file.
    """
    try:
        s = os.stat(path, dir_fd=folder)
    except OSError:
        return ABSENT
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def check_plain(path: Path) -> None:
    """Raise `OSError`, with the reason as `strerror`, unless a path is a plain file to read.

    Everything that reads a file which a person named asks here first: reading a device may never
    end, and opening a named pipe waits for somebody to write to it.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:
        raise OSError(errno.EINVAL, "no file can have this name") from None
    except OSError as error:
        if error.errno in _WORDS:
            raise OSError(error.errno, _WORDS[error.errno]) from None
        raise
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_kind(mode)}, not a file")
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, "permission denied")


def read_plain(path: Path, most: int) -> bytes:
    """The content of a plain file of `most` bytes at most; `OSError` as `check_plain`."""
    check_plain(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EINVAL, f"it is larger than {most >> 20} MiB")
    return content


_WORDS = {
    errno.ELOOP: "it is a link that leads back to itself",
    errno.ENAMETOOLONG: "the name is too long",
}


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "something else")


def fsync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def hash_file(path: Path) -> str:
    """BLAKE3 of a file's bytes, in hex; large files are mapped and hashed on all cores."""
    from blake3 import blake3  # a build with nothing to do hashes nothing

    if os.stat(path).st_size < 1 << 20:
        return blake3(path.read_bytes()).hexdigest()
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    return hasher.hexdigest()
