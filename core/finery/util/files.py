"""Files: their content, whether a stat would show a change, and lists of files.

Reading or searching that could take forever is an error.
"""

import errno
import glob
import itertools
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
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
COPY_BLOCK_BYTES = 16 << 20
"""Number of bytes that are copied at once."""


def is_settled(mtime: int, ctime: int, now: int) -> bool:
    """Whether a file's last change is old enough that another change would show in its stat.

    All in nanoseconds since the epoch. Times without a fraction of a second come from a coarse
    file system.
    """
    changed = max(mtime, ctime)
    return now - changed > (FINE_NS if changed % 1_000_000_000 else COARSE_NS)


def file_state(path: str, folder: int | None = None) -> FileState:
    """The state of a file or folder, which shows changes; `ABSENT` if it is missing.

    folder: an open folder that relative paths start from.
    """
    try:
        s = os.stat(path, dir_fd=folder)
    except OSError:
        return ABSENT
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def settled_state(path: str) -> FileState | None:
    """The state of a file or folder; None if another change just now might not show in it."""
    state = file_state(path)
    return state if is_settled(*state[3:], time.time_ns()) else None


def folder_state(folder: str) -> FileState:
    """Like `file_state`, of a folder or of the link to one, with its mode in place of the size."""
    try:
        s = os.lstat(folder)
    except OSError:
        return ABSENT
    return s.st_dev, s.st_ino, s.st_mode, s.st_mtime_ns, s.st_ctime_ns


def is_moved(old_state: FileState, new_state: FileState) -> bool:
    """Whether a folder, or the link to one, was moved or replaced between two `folder_state`.

    Moving it changes only its ctime. What is added to it changes its mtime, too.
    """
    if old_state[:3] != new_state[:3] or stat.S_ISLNK(new_state[2]):
        return old_state != new_state
    return old_state[3] == new_state[3] and old_state[4] != new_state[4]


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; links count as nothing."""
    if path.is_symlink() or not path.is_dir():
        return 0 if path.is_symlink() or not path.exists() else path.stat().st_size
    total = 0
    for top, _, names in os.walk(path):
        for name in names:
            with suppress(OSError):  # it is being removed
                state = os.lstat(os.path.join(top, name))
                total += 0 if stat.S_ISLNK(state.st_mode) else state.st_size
    return total


def copy_file(
    source: Path, target: Path, progress: Callable[[int], object] = lambda count: None
) -> None:
    """Copy a file into a new one, sharing its blocks if the file system can.

    It makes no hard link, which would change the ctime of a source that belongs to others.
    progress: takes the bytes of each block that is copied. Raises `OSError`, also if the target
    exists.
    """
    with source.open("rb") as read, target.open("xb") as write:
        for count in _copy_blocks(read, write):
            progress(count)


def _copy_blocks(read: BinaryIO, write: BinaryIO) -> Iterator[int]:
    """Copy an open file; yields the bytes of each block.

    Some kernels report the end of a file that they can't copy (copy_file_range(2), "BUGS"), so the
    rest is always read.
    """
    with suppress(AttributeError, OSError):  # not in this system, or between these file systems
        while count := os.copy_file_range(read.fileno(), write.fileno(), COPY_BLOCK_BYTES):
            yield count
    read.seek(os.lseek(write.fileno(), 0, os.SEEK_CUR))
    while block := read.read(COPY_BLOCK_BYTES):
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
        if error.errno in _ERROR_WORDS:
            raise OSError(error.errno, _ERROR_WORDS[error.errno]) from None
        raise
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_file_kind(mode)}, not a file")
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, "permission denied")


def text_or_empty(path: Path) -> str:
    """The text of a file as UTF-8; empty if it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_plain(path: Path, max_bytes: int) -> bytes:
    """The content of a plain file of up to `most` bytes. Raises `OSError` as `check_plain` does."""
    check_plain(path)
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EINVAL, f"it is larger than {max_bytes >> 20} MiB")
    return content


_ERROR_WORDS = {
    errno.ELOOP: "it is a link to itself",
    errno.ENAMETOOLONG: "the name is too long",
}


def _file_kind(mode: int) -> str:
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


MAX_FILES = 250_000
"""Maximum number of files and folders to examine: a larger folder is a mistake."""
SYSTEM_FOLDERS = ("/proc", "/sys", "/dev")
"""Folders that aren't on a disk."""


def files_inside(top: Path) -> list[Path]:
    """All files in a folder and in those below, sorted. Links to folders aren't followed.

    Raises `OSError` for a folder of the system, and for an unreadable file as its `filename`.
    """
    _refuse_system(top)
    paths: list[Path] = []
    for folder, _, names in os.walk(top, onerror=_raise_error):
        paths += _plain_files(os.path.join(folder, name) for name in names)
        if len(paths) > MAX_FILES:
            raise _too_many_error()
    return sorted(paths)


def files_matching(pattern: Path, folder: Path) -> list[Path]:
    """All files that a pattern of `glob` finds, sorted. Raises as `files_inside`.

    folder: what a relative pattern starts from; the characters of patterns have no meaning in it.
    `**` follows links to folders. Raises `OSError` if one points to a folder above it.
    """
    if "**" in pattern.parts:
        fixed = itertools.takewhile(lambda part: not set(part) & set("*?["), pattern.parts)
        top = folder.joinpath(*fixed)
        _refuse_system(top)
        _refuse_loops(str(top))
    # Each further one walks all folders again.
    simplified = re.sub(r"(\*\*/)+", "**/", str(pattern))
    names = itertools.islice(glob.iglob(simplified, root_dir=folder, recursive=True), MAX_FILES + 1)
    return sorted(_plain_files(os.path.join(folder, name) for name in names))


def _plain_files(names: Iterable[str]) -> Iterator[Path]:
    """The files among these paths, without folders, sockets and others."""
    for count, name in enumerate(names):
        if count >= MAX_FILES:
            raise _too_many_error()
        if os.path.isfile(name):
            try:
                check_plain(Path(name))
            except OSError as error:
                error.filename = name
                raise
            yield Path(name)


def _raise_error(error: OSError) -> None:
    raise error


def _refuse_system(folder: Path) -> None:
    real = os.path.realpath(folder)
    if real == "/" or any(f"{real}/".startswith(f"{top}/") for top in SYSTEM_FOLDERS):
        raise OSError(errno.EINVAL, "it includes files of the system")


def _refuse_loops(top: str) -> None:
    pending: list[tuple[str, frozenset[str]]] = [(top, frozenset())]
    count = 0
    while pending:
        folder, ancestors = pending.pop()
        real = os.path.realpath(folder)
        count += 1
        if real in ancestors:
            raise OSError(errno.ELOOP, "it is a link to a folder above it", folder)
        if count > MAX_FILES:
            raise _too_many_error()
        with suppress(OSError), os.scandir(folder) as entries:  # glob skips unreadable folders, too
            pending += [(entry.path, ancestors | {real}) for entry in entries if entry.is_dir()]


def _too_many_error() -> OSError:
    return OSError(errno.E2BIG, f"it includes more than {MAX_FILES:,} files")
