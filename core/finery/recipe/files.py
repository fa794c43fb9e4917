"""The files outside the store that settings of type `Files` name."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from finery.errors import DataError
from finery.fields import File, Files
from finery.recipe.document import Recipe
from finery.util.files import check_plain, files_inside, files_matching
from finery.util.paths import plain_path
from finery.util.text import nearest

NamedFiles = dict[str, list[tuple[str, Path]]]
"""Setting → (name, path) of each file."""


def find_files(recipe: Recipe, place: Sequence[str], files: Files) -> list[tuple[str, Path]]:
    """(name, path) of each file that the `Files` setting at `place` of the recipe names.

    Raises `RecipeError` if a required file was not found, or if several files match and only one is
    allowed.
    """
    try:
        return find_matches(files, plain_path(recipe.folder))
    except DataError as error:
        raise recipe.error(error.what, place, fix=error.fix) from None


class _NoFileError(DataError):
    """Nothing is there, which is fine for some settings, see `setting`."""


def find_matches(files: Files, folder: Path) -> list[tuple[str, Path]]:
    """(name, path) of each file, with patterns relative to a folder. Raises `DataError`."""
    names: dict[Path, str] = {}
    for pattern in files.patterns:
        try:
            matches = _matches(pattern, folder)
        except _NoFileError:
            is_name = files.may_be == "name" and isinstance(files, File) and files.name
            if files.may_be != "missing" and not is_name:
                raise
            continue
        for path in matches:
            names.setdefault(path, _name_in_recipe(path, folder, pattern))
    _make_distinct(names, folder)
    if isinstance(files, File) and len(names) > 1:
        raise DataError(
            f"expected one file, but {files} matches {len(names)}",
            fix=f"name one: {', '.join(sorted(names.values())[:3])}{', …' * (len(names) > 3)}",
        )
    return [(name, path) for path, name in names.items()]


def _matches(pattern: str, folder: Path) -> list[Path]:
    path = folder / _expand_home(pattern)
    try:
        check_plain(path)
        return [path]
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    except OSError as error:
        is_folder = os.path.isdir(path)
        if not is_folder:
            raise _unreadable_error(pattern, error) from None
    if not is_folder and not any(c in pattern for c in "*?["):
        raise _NoFileError(
            f"there is no file {_shorten(pattern)}", fix=_path_fix(pattern, path, folder)
        )
    try:
        candidates = (
            files_inside(path) if is_folder else files_matching(_expand_home(pattern), folder)
        )
    except OSError as error:
        raise _unreadable_error(pattern, error) from None
    matches = _without_outputs(candidates, pattern)
    if not matches and is_folder:
        problem, fix = f"folder {_shorten(pattern)} is empty", "put files in it, or check the path"
        raise _NoFileError(problem, fix=fix)
    if not matches:
        raise _NoFileError(f"no file matches {_shorten(pattern)}", fix=_PATH_FIX.format(folder))
    return matches


_VIEW = re.compile(r"/views/[0-9a-f]{64}/")
"""In the path of a folder that a link under `build/` leads to."""


def _without_outputs(paths: list[Path], pattern: str) -> list[Path]:
    """The matches of a pattern, without outputs under `build/` unless it names that folder.

    A step must not mistake the outputs of earlier builds for its data.
    """
    if "build" in Path(pattern).parts:
        return paths
    return [path for path in paths if not is_output(str(path))]


def is_output(path: str) -> bool:
    """Whether a file is an output in the store, found by its link under `build/`."""
    if "/build/" not in path:  # to follow the links of many files takes long
        return False
    return _VIEW.search(f"{os.path.realpath(os.path.dirname(path))}/") is not None


def _unreadable_error(pattern: str, error: OSError) -> DataError:
    file = error.filename if isinstance(error.filename, str) else pattern
    return DataError(
        f"can't read {_shorten(file)}: {error.strerror}",
        fix="name files that you may read, or the folder that holds them",
    )


def _shorten(pattern: str) -> str:
    return pattern if len(pattern) <= 300 else f"{pattern[:200]}…{pattern[-100:]}"


def _expand_home(pattern: str) -> Path:
    try:
        return Path(pattern).expanduser()
    except RuntimeError:
        user = _shorten(pattern.partition("/")[0])
        raise DataError(
            f"there is no file {_shorten(pattern)}: {user} has no home folder",
            fix="write the full path",
        ) from None


_PATH_FIX = "check the path: it is relative to the recipe's folder, {}"
_MAX_SEARCHED = 2_000
"""Files that a search for one of the same name looks at, at most."""


def _path_fix(pattern: str, path: Path, folder: Path) -> str:
    """A replacement for a path that doesn't exist."""
    if "://" in pattern:
        return "download the file, and write the path of the copy"
    if "$" in pattern or "%" in pattern:
        return "write the path itself: variables in paths aren't expanded"
    plain = pattern.strip("\"'“”„‘’ ").replace("\\", "/")
    path_parts = Path(plain).parts
    for start in range(len(path_parts)):  # an absolute path from another machine, say
        candidate = Path(*path_parts[start:])
        is_other = candidate != Path(pattern) and not candidate.is_absolute()
        if is_other and os.path.exists(folder / candidate):
            return f"write {candidate.as_posix()}"
    if os.path.isdir(path.parent):
        near = nearest(path.name, [p.name for p in path.parent.iterdir()])
        if near:
            return f"did you mean '{Path(pattern).with_name(near).as_posix()}'?"
    same_name = _file_of_same_name(path.name, folder)
    if same_name is not None:
        return f"did you mean '{same_name}'?"
    return "check the path" if pattern.startswith(("/", "~")) else _PATH_FIX.format(folder)


def _file_of_same_name(name: str, folder: Path) -> str | None:
    """A file of this name further inside the folder."""
    entry_count = 0
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "build")
        if name in files:
            return Path(top, name).relative_to(folder).as_posix()
        entry_count += len(files) + len(folders)
        if entry_count > _MAX_SEARCHED:
            break
    return None


def _name_in_recipe(path: Path, folder: Path, pattern: str) -> str:
    """The path from the recipe's folder; for files elsewhere, from the folder in the pattern."""
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    path_parts = Path(pattern).expanduser().parts
    fixed = Path(
        *itertools.takewhile(lambda path_part: not set(path_part) & set("*?["), path_parts)
    )
    return path.name if path == fixed else path.relative_to(fixed.parent).as_posix()


def _make_distinct(names: dict[Path, str], folder: Path) -> None:
    """Put folders before the names that several files have, until no two names are the same.

    Otherwise one of these files would hide the others in the key. Files in the recipe's folder
    keep their names, which differ.
    """
    while len(counts := Counter(names.values())) < len(names):
        for path, name in names.items():
            if counts[name] > 1 and not path.is_relative_to(folder):
                length = len(Path(name).parts) + 1
                names[path] = Path(*path.parts[-length:]).as_posix()
