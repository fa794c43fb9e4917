"""The folders of a project."""

import os
import re
from pathlib import Path

from finery.errors import DataError

STORE_VARIABLE = "FINERY_STORE"
"""The environment variable with the path of the store."""

PINNED_FOLDER = "pinned"
"""The folder of the store with data that steps store for their pins, see `Step.pin_name`."""


LONGEST_NAME, LONGEST_PATH = 255, 1024
"""Bytes of a file's name, and of the path below a folder, that all file systems can have."""


def is_inside(name: str) -> bool:
    """Whether a name from outside is that of a file in a folder or in its subfolders."""
    names = [encoded.encode(errors="replace") for encoded in name.split("/")]
    return sum(map(len, names)) + len(names) <= LONGEST_PATH and all(
        0 < len(encoded) <= LONGEST_NAME and encoded not in (b".", b"..") and b"\0" not in encoded
        for encoded in names
    )


def path_in(folder: Path, name: str) -> Path:
    """The path of a file in a folder, by a name from outside. `DataError` for any other name."""
    if not is_inside(name):
        raise DataError(
            f"{name[:80]!a} isn't the name of a file in this folder",
            where=str(folder),
            fix="name a file in it, such as rows.jsonl or data/rows.jsonl",
        )
    return folder / name


def plain_path(path: Path) -> Path:
    """The absolute path without `..`. Links stay in it, unless a `..` leads out of one."""
    absolute = path.absolute()
    if ".." not in absolute.parts:
        return absolute
    plain, real = Path(os.path.normpath(absolute)), Path(os.path.realpath(absolute))
    return plain if os.path.realpath(plain) == str(real) else real


def project_folder(recipe: Path) -> Path:
    """The nearest folder above the recipe with `.finery` or `.git`, else the recipe's own."""
    start = plain_path(recipe).parent
    for folder in (start, *start.parents):
        if os.path.isdir(folder / ".finery") or os.path.exists(folder / ".git"):
            return folder
    return start


def store_folder(recipe: Path) -> Path:
    """The store of a recipe: `$FINERY_STORE`, else `.finery` in the project folder."""
    configured = os.environ.get(STORE_VARIABLE)
    return Path(configured).absolute() if configured else project_folder(recipe) / ".finery"


def recipe_id(recipe: Path, store: Path) -> str:
    """The recipe's name in the store: its path from the folder that the store is in."""
    return os.path.relpath(plain_path(recipe), store.parent)


def user_folder(variable: str, default: str) -> Path | None:
    """finery's folder of the user for one purpose; None if the user has no home folder.

    variable, default: the XDG variable, which an empty or a relative path leaves unset, and the
    folder in the home folder that it replaces.
    """
    folder = os.environ.get(variable) or ""
    if not os.path.isabs(folder):
        folder = os.path.join(os.path.expanduser("~"), default)
    return Path(folder, "finery") if os.path.isabs(folder) else None


def cache_folder() -> Path | None:
    """finery's folder in the user's cache; None if the user has no home folder of their own."""
    folder = user_folder("XDG_CACHE_HOME", ".cache")
    return None if folder == Path("/.cache/finery") else folder


def linked(text: str) -> str:
    """A text in which folders of a project's store are named by their links under `build/`.

    People know `build/<recipe>/<step>`, not `.finery/views/<64 digits>`. What has no link stays.
    """
    return _VIEW.sub(lambda view: _link_to(view) or view[0], text) if "/views/" in text else text


_VIEW = re.compile(r"(?P<project>[^\s'\"(]*?)\.finery/views/(?P<view>[0-9a-f]{64})")


def _link_to(view: re.Match[str]) -> str | None:
    build = Path(view["project"], "build")
    links = (link for depth in ("*/*", "*/*/*") for link in sorted(build.glob(depth)))
    return next(
        (str(n) for n in links if n.is_symlink() and n.readlink().name == view["view"]), None
    )


def shown(path: Path) -> str:
    """The path as a user would type it here."""
    here = Path.cwd()
    for name in (path, path.resolve()):  # first unresolved: the target of a link may be elsewhere
        if name.is_relative_to(here):
            return str(name.relative_to(here))
    return str(path)
