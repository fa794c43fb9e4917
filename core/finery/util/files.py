"""When a file's stat can be trusted to tell the next change."""

import os
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
