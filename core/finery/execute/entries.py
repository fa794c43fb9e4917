"""Entries for what steps read: their names, and the values that they have now.

An observer in the step's process makes entries (`finery.execute.observed`); a planner computes the
values again. The name of an entry is a path or one of these:

    module PATH        the files that an import could find there
    import NAME        the distributions that install a top-level module
    places of code     where the recipe and its code are in the project
"""

import importlib.machinery
import os
import re
import stat
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from finery.errors import DataError
from finery.execute.scope import scope_of
from finery.store.links import REMOTE_SUFFIX
from finery.util.files import hash_file
from finery.util.installed import installing_distributions
from finery.util.paths import is_inside

ABSENT = "absent"
MAX_ENTRIES = 10_000
"""Maximum number of entries of a result."""
LAYOUT_ENTRY = "places of code"
IMPORT_PREFIX = "import "
_KINDS = ("module", "import", "places")
"""First words of the names of entries that aren't paths."""
_SUFFIXES = [
    f"{start}{suffix}"
    for start in ("", "/__init__")
    for suffix in importlib.machinery.all_suffixes()
]


class Places(NamedTuple):
    """What the names of entries mean: paths start from the folder `project`.

    folders: where else entries are checked, each with a slash at its end. layout: digest of where
    the recipe and its code are.
    """

    project: str
    store: str
    folders: tuple[str, ...] = ()
    layout: str = ""

    def is_checked(self, name: str) -> bool:
        """Whether an entry can be compared: it may come from a stranger."""
        kind, _, target = name.partition(" ")
        if kind == "import":
            return re.fullmatch(r"[\w-]+", target) is not None
        path = target if kind == "module" else name
        if path.startswith("/"):
            return path.startswith(self.folders) and os.path.normpath(path) == path
        return name in (".", LAYOUT_ENTRY) or is_inside(path)

    def name(self, path: str) -> str:
        """The name of the entry for a path: without the project folder if it is in that."""
        inner = "." if path == self.project else path.removeprefix(f"{self.project}/")
        inner = path if inner.partition(" ")[0] in _KINDS or inner.startswith("/") else inner
        return inner.encode(errors="backslashreplace").decode()

    def path(self, name: str) -> str:
        """The path that a name means."""
        return os.path.join(self.project, name) if name != "." else self.project

    def paths(self, name: str) -> list[str]:
        """The paths whose states decide the value of an entry, apart from what is installed."""
        kind, _, target = name.partition(" ")
        if kind == "module":
            return [self.path(target) + end for end in _SUFFIXES]
        if kind == "import":
            return [f"{folder}{target}{end}" for folder in self.folders for end in _SUFFIXES]
        return [] if kind in _KINDS else [self.path(name)]

    def value(self, name: str, digest: Callable[[Path], str] = hash_file) -> str:
        """The current value of an entry. digest: gives that of a file."""
        kind, _, target = name.partition(" ")
        if kind == "import":
            return _import_value(target, self.folders)
        if name == LAYOUT_ENTRY:
            return self.layout
        if kind == "module":
            return candidates(self.path(target)) or ABSENT
        path = self.path(name)
        try:
            s = os.stat(path)
            if stat.S_ISDIR(s.st_mode):
                return self._listing(path)
            if not stat.S_ISREG(s.st_mode):
                return "not a file"
            # SQLite leaves empty ones while a database is open.
            is_empty = not s.st_size and path.endswith(("-wal", "-journal"))
            return ABSENT if is_empty else digest(Path(path))
        except (PermissionError, DataError):
            return "unreadable"
        except (OSError, ValueError):
            return ABSENT

    def _listing(self, folder: str) -> str:
        """The digest of a folder's names, without what finery, git and Python put there."""
        names, build = [], f"{self.project}/build"
        top = os.path.realpath(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                path = f"{top}/{entry.name}"
                is_folder = entry.is_dir()
                is_ours = (
                    entry.name in (".git", ".finery", "__pycache__", ".DS_Store")
                    or path in (self.store, build)
                    or (top == build and is_folder)
                    or entry.name.endswith(REMOTE_SUFFIX)
                    or (entry.is_symlink() and os.path.realpath(path).startswith(f"{self.store}/"))
                )
                if not is_ours:
                    names.append(f"{entry.name}/" if is_folder else entry.name)
        text = "\0".join(sorted(names)).encode(errors="surrogateescape")
        return f"folder {blake3(text).hexdigest(16)}"


@lru_cache(maxsize=1024)
def _import_value(module: str, folders: tuple[str, ...]) -> str:
    """The value of an entry for a top-level module. folders: where else it might be."""
    is_loose = any(candidates(f"{folder}{module}") for folder in folders)
    return installing_distributions(module) or ("found" if is_loose else ABSENT)


@lru_cache(maxsize=64)
def entry_places(project: str, recipe: str, store: str, code: tuple[str, ...]) -> Places:
    """The places of a step. recipe: its folder. code: the files that are in the step's key."""
    scope = scope_of(project, recipe, store, code)
    project = project.rstrip("/") or "/"
    inside = sorted(os.path.relpath(p, project) for p in code if p.startswith(f"{project}/"))
    layout = "\0".join([os.path.relpath(recipe, project), *inside])
    digest = blake3(layout.encode(errors="surrogateescape")).hexdigest(16)
    return Places(project, os.path.realpath(store), scope.folders, digest)


def candidates(path: str) -> str:
    """The ends of the files that exist for a module. path: its own, without an end."""
    return " ".join(end for end in _SUFFIXES if os.path.isfile(path + end))
