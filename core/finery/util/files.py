"""Files: whether they can be read, their content, and whether a stat would show a change."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

COARSE_NS = 2_000_000_000
"""Resolution of file systems that store whole seconds, or two seconds for FAT."""
FileState = tuple[int, int, int, int, int]
"""Device, inode, size in bytes, mtime and ctime in nanoseconds."""
ABSENT: FileState = (0, 0, 0, 0, 0)
"""The state of a missing file."""
FINE_NS = 100_000_000
"""Ten times the resolution of others: the kernel's tick, 1 to 10 ms."""
BLOCK = 16 << 20
"""Number of bytes that are copied at once."""


def settled(mtime: int, ctime: int, now: int) -> bool:
    """Whether a file's last change is old enough that another change would show in its stat.

    All in nanoseconds since the epoch. Times without a fraction of a second come from a coarse
    file system.
    """
    last = max(mtime, ctime)
    return now - last > (FINE_NS if last % 1_000_000_000 else COARSE_NS)


def file_state(path: str, folder: int | None = None) -> FileState:
    """The state of a file or folder, which shows changes; `ABSENT` if it is missing.

    folder: an open folder that relative paths start from.
    """
    try:
        s = os.stat(path, dir_fd=folder)
    except OSError:
        return ABSENT
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def copy_file(
    source: Path, target: Path, progress: Callable[[int], object] = lambda count: None
) -> None:
    """Copy a file into a new one, sharing its blocks if the file system can.

    It makes no hard link, which would change the ctime of a source that belongs to others.
    progress: takes the bytes of each block that is copied. Raises `OSError`, also if the target
    exists.
    """
    with source.open("rb") as read, target.open("xb") as write:
        for count in _copied(read, write):
            progress(count)


def _copied(read: BinaryIO, write: BinaryIO) -> Iterator[int]:
    """Copy an open file; yields the bytes of each block.

    Some kernels report the end of a file that they can't copy (copy_file_range(2), "BUGS"), so the
    rest is always read.
    """
    with suppress(AttributeError, OSError):  # not in this system, or between these file systems
        while count := os.copy_file_range(read.fileno(), write.fileno(), BLOCK):
            yield count
    read.seek(os.lseek(write.fileno(), 0, os.SEEK_CUR))
    while block := read.read(BLOCK):
        write.write(block)
        yield len(block)


def check_plain(path: Path) -> None:
    """Raise `OSError` with the reason as `strerror` unless a path is a readable plain file.

    Call this before reading any file that a user named. Reading a device may never end, and opening
    a named pipe waits for a writer.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:
        raise OSError(errno.EINVAL, "a file can't have this name") from None
    except OSError as error:
        if error.errno in _WORDS:
            raise OSError(error.errno, _WORDS[error.errno]) from None
        raise
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_kind(mode)}, not a file")
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, "permission denied")


def read_plain(path: Path, most: int) -> bytes:
    """The content of a plain file of up to `most` bytes. Raises `OSError` as `check_plain` does."""
    check_plain(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EINVAL, f"it is larger than {most >> 20} MiB")
    return content


_WORDS = {
    errno.ELOOP: "it is a link to itself",
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
    from blake3 import blake3  # not needed by a build with nothing to do

    if os.stat(path).st_size < 1 << 20:
        return blake3(path.read_bytes()).hexdigest()
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    return hasher.hexdigest()
