"""Finds the file that an import reads, without importing it."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ModuleSpec,
    PathFinder,
)
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from finery.step.inspect import FILE_MODULE

CORE = "finery"
KIT = "finery.rows"
"""The part of finery with code that counts like that of plugins."""
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""Folders of installed distributions, even if the environment is in the project."""
STANDARD_LIBRARY = os.path.dirname(os.__file__)
SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
"""Of modules, in the order in which Python looks for them."""


class Place(NamedTuple):
    """A module: its dotted name and its file.

    is_local: the file belongs to the project. beside: another folder from which it can import.
    """

    module: str
    path: str
    is_local: bool = False
    beside: str | None = None

    @property
    def is_package(self) -> bool:
        return f"{os.sep}__init__." in self.path

    @property
    def label(self) -> str:
        """The file's path as imports name it, wherever it is installed."""
        if self.module.startswith(FILE_MODULE):
            return os.path.basename(self.path)
        folders = self.module.split(".")
        name = os.path.basename(self.path)
        return "/".join([*(folders if self.is_package else folders[:-1]), name])

    def absolute(self, imported: str) -> tuple[str, str]:
        """(module, name in it or empty) of an import in this file, relative or absolute."""
        rest = imported.lstrip(".")
        level = len(imported) - len(rest)
        base, _, name = rest.partition(":")
        if level:
            parts = self.module.split(".")
            parents = parts[: len(parts) - level + self.is_package]
            base = ".".join([*parents, base] if base else parents)
        return (base, name) if base else (name, "")


class _Located(NamedTuple):
    """Location of a project module: its file, and for a package its folders."""

    file: str | None
    folders: list[str]


class Modules:
    """Finds modules of plugins' packages, of the kit, and of a recipe's project.

    packages: top-level packages of plugins. project: folders with modules that count if a file in
    them imports them. search: folders besides `sys.path` from which a worker may import.
    """

    def __init__(
        self, packages: Iterable[str], project: Iterable[str | Path] = (),
        search: Iterable[str | Path] = (),
    ) -> None:  # fmt: skip
        areas = {os.path.abspath(folder) for folder in project}
        self._areas = tuple(f"{a}{os.sep}" for a in {*areas, *map(os.path.realpath, areas)})
        self._packages: set[str] = set()
        self._installed: tuple[str, ...] = (f"{STANDARD_LIBRARY}{os.sep}",)
        for package in (CORE, *packages):
            self.add(package)
        self._search = [os.path.abspath(folder) for folder in search]
        self._places: dict[str, Place | None] = {}
        self._names: dict[str, frozenset[str]] = {}  # of the names in a folder
        self._located: dict[str, _Located | None] = {}
        self._beside: dict[str, Modules] = {}
        self.candidates: set[str] = set()
        """Project files that imports would read if they existed."""

    def add(self, module: str) -> None:
        """Also follow imports from the package of a module."""
        top = module.partition(".")[0]
        if top not in self._packages:
            self._packages.add(top)
            folders = getattr(sys.modules.get(top), "__path__", ())
            self._installed += tuple(f"{folder}{os.sep}" for folder in folders)

    def is_local(self, path: str | Path) -> bool:
        """Whether a file belongs to the project, but not to an installed distribution."""
        return self._is_local(os.path.abspath(path))

    def counts(self, path: str) -> bool:
        """Whether a file's code can be in keys: of plugins, the kit, or the project."""
        is_installed = path.startswith(self._installed[1:])  # but the standard library
        is_core = is_installed and f"{os.sep}{CORE}{os.sep}" in path
        kit = os.path.join("", *KIT.split("."), "")
        return self._is_local(path) or (is_installed and (not is_core or f"{os.sep}{kit}" in path))

    def _is_local(self, path: str) -> bool:
        return (
            path.startswith(self._areas)
            and INSTALLED.isdisjoint(path.split(os.sep))
            and not path.startswith(self._installed)
        )

    def listed(self) -> Iterable[str]:
        """The folders of packages in which modules were looked for."""
        return self._names

    def scope(self) -> list[str]:
        """The packages that are followed, and where they are."""
        return [*sorted(self._packages), *sorted(self._installed)]

    # -- packages of plugins, and the kit --------------------------------------------------------

    def is_followed(self, base: str, name: str = "") -> bool:
        """Whether an import reads a plugin's package or the kit."""
        top = base.partition(".")[0]
        if top == CORE:
            return f"{base}.{name}.".startswith(f"{KIT}.")
        return top in self._packages

    def of_package(self, module: str) -> Place | None:
        """A module of a package that is imported, or of one inside it."""
        if module not in self._places:
            file = next(self._files_of(module), None)
            self._places[module] = None if file is None else Place(module, str(Path(file)))
        return self._places[module]

    def _files_of(self, module: str) -> Iterator[str]:
        """Possible files of a module, by the paths of its imported top-level package."""
        top, *parents = module.split(".")
        package = sys.modules.get(top)
        roots = getattr(package, "__path__", ())
        file = getattr(package, "__file__", None)
        if not parents and not roots and file is not None:
            yield file
        for root in roots:
            folder = "/".join([root, *parents])
            names = self._names_in(folder)
            yield from (f"{folder}/{n}" for s in SUFFIXES if (n := f"__init__{s}") in names)
            if parents:
                names = self._names_in("/".join([root, *parents[:-1]]))
                yield from (f"{folder}{s}" for s in SUFFIXES if f"{parents[-1]}{s}" in names)

    def _names_in(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            parent, _, name = folder.rpartition("/")
            if parent in self._names and name not in self._names[parent]:
                self._names[folder] = frozenset()
            else:
                self._names[folder] = _listed(folder)
        return self._names[folder]

    # -- the project -----------------------------------------------------------------------------

    def in_project(self, base: str, name: str, beside: str | None = None) -> list[Place]:
        """The project files that an import reads, including those of parent packages.

        beside: see `Place`. Modules in it count, too, since what a worker finds first isn't known.
        """
        places = self._in_project(base, name)
        if beside is None:
            return places
        places += self._in_folder(beside)._in_project(base, name)
        return [place._replace(beside=beside) for place in places]

    def _in_folder(self, folder: str) -> "Modules":
        """The modules in a folder, which needn't be in the project."""
        if folder not in self._beside:
            modules = Modules((), project=[folder], search=[folder])
            modules.candidates = self.candidates
            self._beside[folder] = modules
        return self._beside[folder]

    def _in_project(self, base: str, name: str) -> list[Place]:
        modules = [".".join(base.split(".")[:i]) for i in range(1, base.count(".") + 2)]
        if name and name != "*":
            modules.append(f"{base}.{name}")
        places = []
        for module in modules:
            located = self._locate(module)
            if located is None:
                break
            if located.file is not None:
                places.append(Place(module, str(Path(located.file)), is_local=True))
        return places

    def _locate(self, module: str) -> _Located | None:
        if module not in self._located:
            parent, _, name = module.rpartition(".")
            self._located[module] = self._inside(parent, name) if parent else self._top(name)
        return self._located[module]

    def _top(self, name: str) -> _Located | None:
        """A top-level module: as loaded, as a finder finds it, or in a project folder."""
        if located := self._loaded(name):
            return located
        if name not in sys.modules and name not in sys.stdlib_module_names:
            with contextlib.suppress(ImportError, ValueError, AttributeError):
                if located := self._specified(find_spec(name)):
                    return located
        folders = [f for f in sys.path if f and self._is_local(f"{f}{os.sep}")]
        return self._found(name, [*folders, *self._search])

    def _inside(self, parent: str, name: str) -> _Located | None:
        package = self._locate(parent)
        if package is None or not package.folders:
            return None
        return self._loaded(f"{parent}.{name}") or self._found(name, package.folders)

    def _found(self, name: str, folders: list[str]) -> _Located | None:
        for folder in folders:
            files = f"{folder}/{name}.py", f"{folder}/{name}/__init__.py"
            self.candidates.update(filter(self._is_local, files))
        with contextlib.suppress(ImportError):
            return self._specified(PathFinder.find_spec(name, folders))
        return None

    def _loaded(self, name: str) -> _Located | None:
        module = sys.modules.get(name)
        return self._specified(getattr(module, "__spec__", None))

    def _specified(self, spec: ModuleSpec | None) -> _Located | None:
        if spec is None:
            return None
        folders = [f for f in spec.submodule_search_locations or () if self._is_local(f"{f}/")]
        file = spec.origin if spec.has_location and spec.origin else None
        if file is not None and not self._is_local(os.path.abspath(file)):
            return None
        return _Located(file, folders) if file or folders else None


def _listed(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
