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
    FrozenImporter,
    PathFinder,
)
from typing import NamedTuple

from finery.plugin.discovery import ADDED
from finery.util.installed import place_of

SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
"""Of modules, in the order in which Python looks for them."""
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
        level = len(base) - len(rest)
        if not level:
            return base, name
        parts = self.name.split(".")
        parents = parts[: len(parts) - level + bool(self.folders)]
        base = ".".join([*parents, rest] if rest else parents)
        return (base, name) if base else (name, "")


class Imports:
    """Where modules are: in the folders of `sys.path`, and in others that a worker may add.

    beside: those folders. What is in one of them counts in addition to what comes first, since the
    order isn't known here.

    absent: files that imports would read if they existed. listed: folders in which any new file may
    matter. archives: zip files in `sys.path`.
    """

    def __init__(self, beside: Iterable[str]) -> None:
        here = os.getcwd()
        entries = [os.path.abspath(e or ".") for e in sys.path if e not in ADDED]
        self._path = [e for e in dict.fromkeys(entries) if e != here and os.path.isdir(e)]
        self._first = [here] if here in entries else []  # not in the path of workers
        self._beside = [*dict.fromkeys(map(os.path.abspath, beside))]
        self._modules: dict[str, list[Module]] = {}
        self.absent: set[str] = set()
        self.listed: set[str] = set()
        self.archives = [e for e in entries if os.path.isfile(e)]

    def find(self, name: str) -> list[Module]:
        """The modules of a dotted name: usually one, none if nobody has it."""
        if name not in self._modules:
            parent, _, tail = name.rpartition(".")
            modules = self._inside(parent, tail) if parent else self._top(name)
            self._modules[name] = [*dict.fromkeys(modules)]
        return self._modules[name]

    def children(self, module: Module) -> Iterator[str]:
        """The names of the modules in a package."""
        for folder in module.folders:
            self.listed.add(folder)
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
                early = PathFinder.find_spec(name, [folder])
                if early is None or not early.origin:
                    continue
                late = PathFinder.find_spec(name, self._path[index + 1 :])
                if late is not None and late.origin and place_of(late.origin):
                    yield Module(name, early.origin, (*(early.submodule_search_locations or ()),))

    def _inside(self, parent: str, tail: str) -> Iterator[Module]:
        for package in self.find(parent):
            for folder in package.folders:
                yield from self._in(folder, f"{parent}.{tail}", tail)

    def _top(self, name: str) -> Iterator[Module]:
        if name in sys.builtin_module_names:
            return
        for folder in self._first:
            yield from self._in(folder, name, name)
        for folder in self._path:
            for module in self._in(folder, name, name):
                yield module
                if module.path:
                    return
        beside = [m for folder in self._beside for m in self._in(folder, name, name)]
        yield from beside or self._by_finders(name)

    def _in(self, folder: str, name: str, tail: str) -> Iterator[Module]:
        """The module of that name in a folder."""
        inner = f"{folder}/{tail}"
        package = None
        if os.path.isdir(inner):
            package = self._first_of(f"{inner}/__init__")
        elif place_of(inner) == "":
            self.absent.add(inner)
        if package is not None:
            yield Module(name, package, (inner,))
        elif (file := self._first_of(inner)) is not None:
            yield Module(name, file)
        elif os.path.isdir(inner):
            yield Module(name, "", (inner,))

    def _first_of(self, stem: str) -> str | None:
        paths = [f"{stem}{suffix}" for suffix in SUFFIXES]
        file = next(filter(os.path.isfile, paths), None)
        if place_of(stem) == "":
            self.absent.update(paths[: None if file is None else paths.index(file)])
        return file

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
