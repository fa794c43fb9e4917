"""Entries for what steps read: their names, and the values that they have now.

An observer in the step's process makes entries (`finery.execute.observed`); a planner computes the
values again. The name of an entry is a path or one of these:

    module PATH        the files that an import could find there
    import NAME        the distributions that install a top-level module
    places of code     where the recipe and its code are in the project
"""

import importlib.machinery
import importlib.util
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from blake3 import blake3

from finery.errors import DataError
from finery.store.links import REMOTE_SUFFIX
from finery.util.files import hash_file
from finery.util.installed import (
    STANDARD_LIBRARY,
    finery_packages,
    installing_distributions,
    is_installed,
    plugin_packages,
    search_path,
)
from finery.util.paths import is_inside, plain_path

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


# -- where reads count ----------------------------------------------------------------------------


_IGNORED_FOLDERS = re.compile(
    r"/(site-packages|dist-packages|__pycache__|\.git|\.finery|wandb|mlruns|lightning_logs|"
    "unsloth_compiled_cache)/"
)
"""Parts of paths in which nothing counts: what Python, git and libraries write."""
_VERSION = f"{sys.version_info.major}{sys.version_info.minor}"
_ZIP = f"{os.path.dirname(STANDARD_LIBRARY)}/python{_VERSION}.zip"
"""Where the standard library might be, too."""


class Scope(NamedTuple):
    """Where reads count: in `folders`, and not in `excluded`. All paths end with a slash."""

    folders: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def covers(self, path: str) -> bool:
        """Whether a path, or the real one that a link leads to, is in the scope."""
        start = f"{path}/"
        if start.startswith(self.excluded):
            return False
        for folder in self.folders:
            if start.startswith(folder):
                return not _IGNORED_FOLDERS.search(start, len(folder) - 1)
        if is_installed(path):
            return False
        real = _real_folder(path if os.path.islink(path) else os.path.dirname(path))
        return real.startswith(self.folders) and not real.startswith(self.excluded)

    def is_loose(self, path: str) -> bool:
        """Whether code is neither installed nor a part of Python or finery."""
        is_elsewhere = path.startswith(self.excluded) or is_installed(path)
        return path[:1] == "/" and not is_elsewhere


@lru_cache(maxsize=4096)
def _real_folder(path: str) -> str:
    return f"{os.path.realpath(path)}/"


@lru_cache(maxsize=64)
def scope_of(project: str, recipe: str, store: str, code: tuple[str, ...]) -> Scope:
    """The scope of a step's reads. recipe: its folder. code: the files in the step's key."""
    home = os.path.expanduser("~")
    caches = [os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache"]
    caches += filter(None, map(os.environ.get, ("HF_HOME", "TMPDIR")))
    python = _with_slashes([STANDARD_LIBRARY, _ZIP, *package_folders(is_own=False)])
    code += tuple(f"{os.path.abspath(entry)}/" for entry in search_path())
    loose = [path for path in code if not path.startswith(python)]
    folders = {os.path.dirname(p) for p in loose if not is_installed(p)}
    folders_inside = tuple(
        path for path in _with_slashes([project, recipe, *folders]) if path != "/"
    )
    excluded = _with_slashes([sys.prefix, sys.base_prefix, *caches])
    excluded_inside = [
        path for path in excluded if path.startswith(folders_inside) and path not in folders_inside
    ]
    return Scope(folders_inside, (*_with_slashes([store]), *excluded_inside, *python))


@lru_cache(maxsize=2)
def package_folders(is_own: bool) -> tuple[str, ...]:
    """The folders of finery's packages, or also those of other plugins, whose files are in keys."""
    packages = finery_packages().union(() if is_own else plugin_packages())
    specs = filter(None, map(importlib.util.find_spec, sorted(packages)))
    return _with_slashes(path for spec in specs for path in spec.submodule_search_locations or ())


def _with_slashes(folders: Iterable[str]) -> tuple[str, ...]:
    return tuple({f"{path.rstrip('/')}/": 0 for f in folders for path in (f, os.path.realpath(f))})


def normalise_path(value: Any) -> str:
    """An absolute path without `..`."""
    path = value if type(value) is str else os.fsdecode(value)
    if path[:1] != "/":
        path = f"{os.getcwd()}/{path}"
    path = str(plain_path(Path(path))) if "/.." in path else os.path.normpath(path)
    path = path.removeprefix("/") if path.startswith("//") else path
    return os.path.realpath(path) if path.startswith("/proc/self/") else path
