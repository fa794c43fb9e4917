"""Where the reads of a step count, and whose code is where."""

import importlib.util
import os
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from finery.util.installed import (
    STANDARD_LIBRARY,
    finery_packages,
    is_installed,
    plugin_packages,
    search_path,
)
from finery.util.paths import plain_path

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
