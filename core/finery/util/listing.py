"""The plain files in a folder, or of a pattern. Whatever could take forever is an error."""

import errno
import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from finery.util.files import check_plain

MOST = 250_000
"""Files and folders that are looked at: more are a folder that wasn't meant."""
SYSTEM = ("/proc", "/sys", "/dev")
"""Folders of what isn't kept on a disk."""


def files_inside(top: Path) -> list[Path]:
    """All files in a folder and in those below, sorted. Links to folders aren't followed.

    `OSError` for a folder of the system, and for what can't be read, which `filename` names.
    """
    _refuse_system(top)
    found: list[Path] = []
    for folder, _, names in os.walk(top, onerror=_fail):
        found += _plain(os.path.join(folder, name) for name in names)
        if len(found) > MOST:
            raise _too_many()
    return sorted(found)


def files_matching(pattern: Path) -> list[Path]:
    """All files that a pattern of `glob` finds, sorted. Raises as `files_inside`.

    `**` follows links to folders: `OSError` where one leads to a folder above it.
    """
    if "**" in pattern.parts:
        fixed = itertools.takewhile(lambda part: not set(part) & set("*?["), pattern.parts)
        top = Path(*fixed)
        _refuse_system(top)
        _refuse_loops(str(top))
    return sorted(_plain(itertools.islice(glob.iglob(str(pattern), recursive=True), MOST + 1)))


def _plain(names: Iterable[str]) -> Iterator[Path]:
    """The files among these paths; folders, sockets and the like are left out."""
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
        raise OSError(errno.EINVAL, "it takes in the system's own files")


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
        with suppress(OSError), os.scandir(folder) as entries:  # what can't be listed, glob skips
            rest += [(entry.path, above | {real}) for entry in entries if entry.is_dir()]


def _too_many() -> OSError:
    return OSError(errno.E2BIG, f"it takes in more than {MOST:,} files")
