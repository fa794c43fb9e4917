"""The plain files in a folder or of a pattern. Searches that could take forever are errors."""

import errno
import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from finery.util.files import check_plain

MOST = 250_000
"""Maximum number of files and folders to examine: a larger folder is a mistake."""
SYSTEM = ("/proc", "/sys", "/dev")
"""Folders that aren't on a disk."""


def files_inside(top: Path) -> list[Path]:
    """All files in a folder and in those below, sorted. Links to folders aren't followed.

    Raises `OSError` for a folder of the system, and for an unreadable file as its `filename`.
    """
    _refuse_system(top)
    found: list[Path] = []
    for folder, _, names in os.walk(top, onerror=_fail):
        found += _plain(os.path.join(folder, name) for name in names)
        if len(found) > MOST:
            raise _too_many()
    return sorted(found)


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
    once = re.sub(r"(\*\*/)+", "**/", str(pattern))  # each further one walks all folders again
    names = itertools.islice(glob.iglob(once, root_dir=folder, recursive=True), MOST + 1)
    return sorted(_plain(os.path.join(folder, name) for name in names))


def _plain(names: Iterable[str]) -> Iterator[Path]:
    """The files among these paths, without folders, sockets and others."""
    for count, name in enumerate(names):
        if count >= MOST:
            raise _too_many()
        if os.path.isfile(name):
            try:
                check_plain(Path(name))
            except OSError as error:
                error.filename = name
                raise
            yield Path(name)


def _fail(error: OSError) -> None:
    raise error


def _refuse_system(folder: Path) -> None:
    real = os.path.realpath(folder)
    if real == "/" or any(f"{real}/".startswith(f"{top}/") for top in SYSTEM):
        raise OSError(errno.EINVAL, "it includes files of the system")


def _refuse_loops(top: str) -> None:
    rest: list[tuple[str, frozenset[str]]] = [(top, frozenset())]
    count = 0
    while rest:
        folder, above = rest.pop()
        real = os.path.realpath(folder)
        count += 1
        if real in above:
            raise OSError(errno.ELOOP, "it is a link to a folder above it", folder)
        if count > MOST:
            raise _too_many()
        with suppress(OSError), os.scandir(folder) as entries:  # glob skips unreadable folders, too
            rest += [(entry.path, above | {real}) for entry in entries if entry.is_dir()]


def _too_many() -> OSError:
    return OSError(errno.E2BIG, f"it includes more than {MOST:,} files")
