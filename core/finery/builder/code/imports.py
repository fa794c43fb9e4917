"""Finds the files that an import reads, without importing anything."""

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    BuiltinImporter,
    FileFinder,
    FrozenImporter,
    PathFinder,
    SourceFileLoader,
)
from itertools import takewhile
from typing import NamedTuple

from finery.plugin.discovery import ADDED
from finery.util.installed import place_of

SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
"""Of modules, in the order in which Python looks for them."""
ENDS = ("", *(f"/__init__{suffix}" for suffix in SUFFIXES), *SUFFIXES)
"""What may follow the name of a module in a folder, in this order."""
VIRTUALENV = "_virtualenv.pth"
"""A file that comes with each environment of virtualenv and uv; it acts on installers."""
_USUAL = (BuiltinImporter, FrozenImporter, PathFinder)


class Module(NamedTuple):
    """A module: its dotted name, its file, and the folders with its submodules, if it is a package.

    path: empty for a namespace package.
    """

    name: str
    path: str
    folders: tuple[str, ...] = ()

    def absolute(self, imported: str) -> tuple[str, str]:
        """(module, name in it or empty) of an import in this file, see `Parsed`."""
        base, _, name = imported.partition(":")
        rest = base.lstrip(".")
        if level := len(base) - len(rest):
            parents = self.name.split(".")[: bool(self.folders) - level or None]
            base = ".".join(filter(None, [*parents, rest]))
        return (base, name) if base else (name, "")


class Imports:
    """Where modules are: in the folders of `sys.path`, and in others that a worker may add.

    beside: those folders. What is in one of them counts in addition to what comes first, since the
    order isn't known here.

    absent: takes the files that imports would read if they existed. listed: takes the folders in
    which any new file may matter. archives: zip files in `sys.path`.
    """

    def __init__(self, beside: Iterable[str], absent: set[str], listed: set[str]) -> None:
        here = os.getcwd()
        entries = [os.path.abspath(e or ".") for e in sys.path if e not in ADDED]
        self._path = [e for e in dict.fromkeys(entries) if e != here and os.path.isdir(e)]
        self._first = [here] if here in entries else []  # not in the path of workers
        self._beside = [*beside]
        self._modules: dict[str, list[Module]] = {}
        self._finders: dict[str, FileFinder] = {}
        self._absent, self._listed = absent, listed
        self.archives = [e for e in entries if os.path.isfile(e)]

    def find(self, name: str) -> list[Module]:
        """The modules of a dotted name: usually one, none if nobody has it."""
        if name not in self._modules:
            parent = name.rpartition(".")[0]
            modules = self._inside(parent, name) if parent else self._top(name)
            self._modules[name] = [*dict.fromkeys(modules)]
        return self._modules[name]

    def children(self, module: Module) -> Iterator[str]:
        """The names of the modules in a package."""
        for folder in module.folders:
            self._listed.add(folder)
            for entry in sorted(os.listdir(folder)):
                name = entry.partition(".")[0]
                if name.isidentifier() and name not in ("__init__", "__pycache__"):
                    yield name

    def start_files(self) -> Iterator[str]:
        """The `.pth` files with code that Python runs at its start."""
        for folder in self._path:
            for name in os.listdir(folder) if place_of(f"{folder}/") == "installed" else ():
                if name.endswith(".pth") and name != VIRTUALENV:
                    with open(f"{folder}/{name}", "rb") as file:
                        if re.search(rb"(?m)^import[ \t]", file.read()):
                            yield f"{folder}/{name}"

    def at_start(self) -> Iterator[Module]:
        """`sitecustomize` and the like, and modules that come before others of the same name."""
        for name in ("sitecustomize", "usercustomize"):
            path = getattr(sys.modules.get(name), "__file__", None)
            if path and place_of(os.path.realpath(path)) != "standard":
                yield Module(name, path)
        for index, folder in enumerate(self._path):
            if place_of(f"{folder}/"):
                break
            for name in {entry.partition(".")[0] for entry in os.listdir(folder)}:
                early = [m for m in self._in(folder, name) if m.path]
                rest = (m for later in self._path[index + 1 :] for m in self._in(later, name))
                if early and any(place_of(module.path) for module in rest):
                    yield from early

    def _inside(self, parent: str, name: str) -> Iterator[Module]:
        for package in self.find(parent):
            for folder in package.folders:
                yield from self._in(folder, name)

    def _top(self, name: str) -> Iterator[Module]:
        if name in sys.builtin_module_names:
            return
        for folder in self._first:
            yield from self._in(folder, name)
        for folder in self._path:
            for module in self._in(folder, name):
                yield module
                if module.path:
                    return
        beside = [m for folder in self._beside for m in self._in(folder, name)]
        yield from beside or self._by_finders(name)

    def _in(self, folder: str, name: str) -> Iterator[Module]:
        """The module of that name in a folder, as Python would find it."""
        if folder not in self._finders:  # a new one knows what is in the folder now
            self._finders[folder] = FileFinder(folder, (SourceFileLoader, [*SUFFIXES]))
        tail = name.rpartition(".")[2]
        spec = self._finders[folder].find_spec(tail)
        origin = (spec.origin if spec is not None else None) or ""
        if place_of(f"{folder}/") == "":
            earlier = takewhile(origin.__ne__, (f"{folder}/{tail}{end}" for end in ENDS))
            for path in earlier:
                if not os.path.exists(path):
                    self._absent.add(path)
                elif not os.path.isdir(path):  # a file that a package might replace
                    self._listed.add(folder)
        if spec is not None:
            yield Module(name, origin, (*(spec.submodule_search_locations or ()),))

    def _by_finders(self, name: str) -> Iterator[Module]:
        """What other finders find, such as those of editable installations, or what is loaded."""
        specs = []
        for finder in sys.meta_path:
            if finder not in _USUAL:
                with contextlib.suppress(Exception):  # of anyone's
                    specs.append(finder.find_spec(name, None))
        specs.append(getattr(sys.modules.get(name), "__spec__", None))
        for spec in specs:
            if spec is not None:
                origin = spec.origin or ""  # in an archive, which counts as a whole, it's no file
                file = origin if spec.has_location and os.path.isfile(origin) else ""
                folders = (*filter(os.path.isdir, map(str, spec.submodule_search_locations or ())),)
                if file or folders:
                    yield Module(name, file, folders)
                    return


def label_of(module: Module) -> str:
    """The path of a module's file as imports name it, wherever it is."""
    name, folders = os.path.basename(module.path), module.name.split(".")
    return "/".join([*(folders if module.folders else folders[:-1]), name])
