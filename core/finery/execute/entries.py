"""Names and values of what steps read, and where reads count.

An observer in the step's process makes entries of them (`finery.execute.observed`); a planner
computes the values again.
"""

import importlib.machinery
import importlib.util
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from finery.store.links import AWAY
from finery.util.installed import (
    STANDARD_LIBRARY,
    is_installed,
    normalised,
    own_packages,
    package_version,
    plugin_packages,
)
from finery.util.paths import is_inside

ABSENT = "absent"
MOST = 10_000
"""Maximum number of entries of a result."""
LAYOUT = "places of code"
"""The name of the entry with where the recipe and its code are in the project."""
KINDS = ("module", "import", "package", "places")
"""First words of the names of entries that aren't paths."""
_SUFFIXES = [
    f"{start}{suffix}"
    for start in ("", "/__init__")
    for suffix in importlib.machinery.all_suffixes()
]
_VERSION = f"{sys.version_info.major}{sys.version_info.minor}"
_ZIP = f"{os.path.dirname(STANDARD_LIBRARY)}/python{_VERSION}.zip"
"""Where the standard library might be, too."""


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
        if name.startswith("import "):
            return name[7:].isidentifier()
        if name.startswith("package "):
            return name[8:] == normalised(name[8:])
        path = name.removeprefix("module ")
        if path.startswith("/"):
            return path.startswith(self.folders) and os.path.normpath(path) == path
        return name in (".", LAYOUT) or is_inside(path)

    def name(self, path: str) -> str:
        """The name of the entry for a path: without the project folder if it is in that."""
        inner = "." if path == self.project else path.removeprefix(f"{self.project}/")
        inner = path if inner.partition(" ")[0] in KINDS or inner.startswith("/") else inner
        return inner.encode(errors="backslashreplace").decode()

    def path(self, name: str) -> str:
        """The path that a name means."""
        return os.path.join(self.project, name) if name != "." else self.project

    def value(self, name: str, digest: Callable[[Path], str]) -> str:
        """The current value of an entry. digest: gives that of a file."""
        kind, _, rest = name.partition(" ")
        if kind == "package":
            return package_version(rest)
        if kind == "import":
            return _import_value(rest)
        if name == LAYOUT:
            return self.layout
        if kind == "module":
            return candidates(self.path(rest)) or ABSENT
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
        except PermissionError:
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
                    or entry.name.endswith(AWAY)
                    or (entry.is_symlink() and os.path.realpath(path).startswith(f"{self.store}/"))
                )
                if not is_ours:
                    names.append(f"{entry.name}/" if is_folder else entry.name)
        text = "\0".join(sorted(names)).encode(errors="surrogateescape")
        return f"folder {blake3(text).hexdigest(16)}"


@lru_cache(maxsize=1024)
def _import_value(module: str) -> str:
    """The value of an entry for a top-level module."""
    try:
        return ABSENT if importlib.util.find_spec(module) is None else "found"
    except (ImportError, ValueError):
        return "found"


def places_of(project: str, recipe: str, store: str, code: Sequence[str]) -> Places:
    """The places of a step. recipe: its folder. code: the files that are in the step's key."""
    scope = scope_of(project, recipe, store, tuple(code))
    project = project.rstrip("/") or "/"
    inside = sorted(os.path.relpath(p, project) for p in code if p.startswith(f"{project}/"))
    layout = "\0".join([os.path.relpath(recipe, project), *inside])
    digest = blake3(layout.encode(errors="surrogateescape")).hexdigest(16)
    return Places(project, os.path.realpath(store), scope.folders, digest)


def paths_of(project: str, name: str) -> list[str]:
    """The paths whose states decide the value of an entry."""
    kind, _, rest = name.partition(" ")
    if kind == "module":
        return [os.path.join(project, rest) + end for end in _SUFFIXES]
    if kind in KINDS:
        return []
    return [os.path.join(project, name)]


def candidates(path: str) -> str:
    """The ends of the files that exist for a module. path: its own, without an end."""
    return " ".join(end for end in _SUFFIXES if os.path.isfile(path + end))


class Scope(NamedTuple):
    """Where reads count: in `folders`, and not in `excluded`. All paths end with a slash."""

    folders: tuple[str, ...]
    excluded: tuple[str, ...]


@lru_cache(maxsize=64)
def scope_of(project: str, recipe: str, store: str, code: tuple[str, ...]) -> Scope:
    """The scope of a step's reads."""
    home = os.path.expanduser("~")
    caches = [os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache"]
    caches += filter(None, map(os.environ.get, ("HF_HOME", "TMPDIR")))
    prefixes = [sys.prefix, sys.base_prefix]
    python = _slash([STANDARD_LIBRARY, _ZIP, *package_folders(is_own=False)])
    code += tuple(f"{os.path.abspath(entry)}/" for entry in sys.path)
    loose = [path for path in code if not path.startswith(python)]
    folders = {os.path.dirname(p) for p in loose if not is_installed(p)}
    inside = tuple(path for path in _slash([project, recipe, *folders]) if path != "/")
    excluded = _slash([*prefixes, *caches])
    below = [path for path in excluded if path.startswith(inside) and path not in inside]
    return Scope(inside, (*_slash([store]), *below, *python))


@lru_cache(maxsize=2)
def package_folders(is_own: bool) -> tuple[str, ...]:
    """The folders of finery's packages, or also those of other plugins, whose files are in keys."""
    packages = own_packages().union(() if is_own else plugin_packages())
    specs = filter(None, map(importlib.util.find_spec, sorted(packages)))
    return _slash(path for spec in specs for path in spec.submodule_search_locations or ())


def _slash(folders: Iterable[str]) -> tuple[str, ...]:
    return tuple({f"{path.rstrip('/')}/": 0 for f in folders for path in (f, os.path.realpath(f))})
