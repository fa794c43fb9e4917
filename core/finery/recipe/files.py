"""Files outside the store that `Files` settings name."""

import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from finery.errors import DataError
from finery.fields import Files, OneFile, OptionalFiles, Settings
from finery.recipe.document import Recipe
from finery.step.inspect import files_of, give_files
from finery.util.text import nearest_meant

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


def _find(files: Files, folder: Path) -> list[tuple[str, Path]]:
    names: dict[Path, str] = {}
    for pattern in files.patterns:
        try:
            matches = _matches(pattern, folder)
        except DataError:
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
    path = folder / Path(pattern).expanduser()
    if path.is_dir():
        matches = sorted(p for p in path.rglob("*") if p.is_file())
        if not matches:
            raise DataError(f"folder {pattern} holds no files", fix="check the path")
        return matches
    if path.exists():
        return [path]
    if any(c in pattern for c in "*?["):
        import glob

        matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if matches:
            return matches
        raise DataError(
            f"no file matches {pattern}", fix=f"paths are relative to the recipe's folder, {folder}"
        )
    raise DataError(f"there is no file {pattern}", fix=_near(path, folder))


def _near(path: Path, folder: Path) -> str:
    if path.parent.is_dir():
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
