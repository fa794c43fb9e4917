"""Files outside the store that `Files` settings name."""

import copy
import errno
import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from finery.errors import DataError
from finery.fields import Files, OneFile, OptionalFiles, Settings
from finery.recipe.document import Recipe
from finery.step.inspect import files_of, give_files
from finery.util.files import check_plain
from finery.util.text import nearest_meant

MOST_FILES = 250_000
"""Files that a setting may name: more are a folder that wasn't meant."""
SYSTEM = ("/proc", "/sys", "/dev")
"""Folders of what isn't kept on a disk."""
S = TypeVar("S", bound=Settings)


def with_files(recipe: Recipe, place: Sequence[str], step: S) -> S:
    """A copy of a step, at `place` of the recipe, that has its outside files.

    Raises what `find_files` raises.
    """
    opened = copy.deepcopy(step)
    files = {
        name: find_files(recipe, (*place, *name.split(".")), setting)
        for name, setting in files_of(opened).items()
    }
    give_files(opened, files)
    return opened


def find_files(recipe: Recipe, place: Sequence[str], files: Files) -> list[tuple[str, Path]]:
    """(name, path) of each file that a `Files` setting, at `place` of the recipe, names.

    `RecipeError` when there is none, unless there needn't be any, or several instead of one.
    """
    try:
        return _find(files, recipe.folder.absolute())
    except DataError as error:
        raise recipe.error(error.what, place, fix=error.fix) from None


class _Missing(DataError):
    """Nothing is there, which `OptionalFiles` may be."""


def _find(files: Files, folder: Path) -> list[tuple[str, Path]]:
    names: dict[Path, str] = {}
    for pattern in files.patterns:
        try:
            matches = _matches(pattern, folder)
        except _Missing:
            if isinstance(files, OptionalFiles):
                continue
            raise
        for path in matches:
            names.setdefault(path, _name(path, folder, pattern))
    if isinstance(files, OneFile) and len(names) > 1:
        raise DataError(
            f"one file is needed, and {files} is {len(names)}",
            fix=f"name one: {', '.join(sorted(names.values())[:3])}{', …' * (len(names) > 3)}",
        )
    return [(name, path) for path, name in names.items()]


def _matches(pattern: str, folder: Path) -> list[Path]:
    path = _expanded(pattern, folder)
    try:
        check_plain(path)
    except FileNotFoundError:
        if any(c in pattern for c in "*?["):
            return _globbed(path, pattern, folder)
        near = _near(path, folder)
        raise _Missing(f"there is no file {_short(pattern)}", fix=near) from None
    except OSError as error:
        if os.path.isdir(path):
            return _inside(path, pattern)
        if error.errno == errno.ENOTDIR:
            raise _Missing(f"there is no file {_short(pattern)}", fix=_near(path, folder)) from None
        raise _unusable(pattern, error) from None
    return [path]


def _expanded(pattern: str, folder: Path) -> Path:
    try:
        return folder / Path(pattern).expanduser()
    except RuntimeError:
        raise DataError(
            f"there is no user {_short(pattern.partition('/')[0])}",
            fix="write the whole path, or ~/… for your own home folder",
        ) from None


def _unusable(pattern: str, error: OSError) -> DataError:
    return DataError(
        f"can't read {_short(pattern)}: {error.strerror}",
        fix="name a file that you may read; paths are relative to the recipe's folder",
    )


def _short(pattern: str) -> str:
    return pattern if len(pattern) <= 80 else f"{pattern[:40]}…{pattern[-20:]}"


def _inside(top: Path, pattern: str) -> list[Path]:
    """All files in a folder and in those below, sorted. Links to folders aren't followed."""
    _refuse_system(top, pattern)
    found: list[Path] = []
    for folder, _, names in os.walk(top, onerror=_raiser(pattern)):
        paths = (Path(folder, name) for name in names)
        found += [_readable(path) for path in paths if path.is_file()]
        if len(found) > MOST_FILES:
            raise _too_many(pattern)
    if not found:
        raise _Missing(f"folder {_short(pattern)} holds no files", fix="check the path")
    return sorted(found)


def _raiser(pattern: str) -> Callable[[OSError], None]:
    def fail(error: OSError) -> None:
        raise _unusable(str(error.filename or pattern), error)

    return fail


def _readable(path: Path) -> Path:
    try:
        check_plain(path)
    except OSError as error:
        raise _unusable(str(path), error) from None
    return path


def _globbed(path: Path, pattern: str, folder: Path) -> list[Path]:
    import glob

    if "**" in pattern:
        fixed = itertools.takewhile(lambda part: not set(part) & set("*?["), path.parts)
        _refuse_system(Path(*fixed), pattern)
        _refuse_loops(str(Path(*fixed)), pattern)
    found: list[Path] = []
    for count, name in enumerate(glob.iglob(str(path), recursive=True)):
        if os.path.isfile(name):
            found.append(_readable(Path(name)))
        if count > MOST_FILES:
            raise _too_many(pattern)
    if not found:
        raise _Missing(
            f"no file matches {_short(pattern)}",
            fix=f"paths are relative to the recipe's folder, {folder}",
        )
    return sorted(found)


def _refuse_system(folder: Path, pattern: str) -> None:
    """Raise `DataError` for the whole file system, and for what the kernel makes up."""
    resolved = os.path.realpath(folder)
    if resolved == "/" or any(f"{resolved}/".startswith(f"{top}/") for top in SYSTEM):
        raise DataError(
            f"{_short(pattern)} takes in the system's own files",
            fix="name the folder that holds your files",
        )


def _refuse_loops(top: str, pattern: str) -> None:
    """Raise `DataError` for a link to a folder above it: `**` follows links, without an end."""
    rest: list[tuple[str, frozenset[str]]] = [(top, frozenset())]
    count = 0
    while rest:
        folder, above = rest.pop()
        real = os.path.realpath(folder)
        if real in above:
            raise DataError(
                f"{_short(pattern)} finds the link {folder}, which leads to a folder above it",
                fix="remove the link, or name a folder without it",
            )
        count += 1
        if count > MOST_FILES:
            raise _too_many(pattern)
        with suppress(OSError), os.scandir(folder) as entries:  # what can't be listed, glob skips
            rest += [(e.path, above | {real}) for e in entries if e.is_dir()]


def _too_many(pattern: str) -> DataError:
    return DataError(
        f"{_short(pattern)} finds more than {MOST_FILES:,} files",
        fix="name the folder that holds your files",
    )


def _near(path: Path, folder: Path) -> str:
    if os.path.isdir(path.parent):
        fix = nearest_meant(path.name, [p.name for p in path.parent.iterdir()])
        if fix is not None:
            return fix
    return f"paths are relative to the recipe's folder, {folder}"


def _name(path: Path, folder: Path, pattern: str) -> str:
    """From the recipe's folder; of a file elsewhere from the folder that its pattern names."""
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    parts = Path(pattern).expanduser().parts
    fixed = Path(*itertools.takewhile(lambda part: not set(part) & set("*?["), parts))
    return path.name if path == fixed else path.relative_to(fixed.parent).as_posix()
