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

import msgspec

from finery.plugin.discovery import ADDED
from finery.util.installed import code_origin

SUFFIXES = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
"""Of modules, in the order in which Python looks for them."""
MODULE_ENDS = ("", *(f"/__init__{suffix}" for suffix in SUFFIXES), *SUFFIXES)
"""What may follow the name of a module in a folder, in this order."""
VIRTUALENV_FILE = "_virtualenv.pth"
"""A file that comes with each environment of virtualenv and uv; it acts on installers."""
_STANDARD_FINDERS = (BuiltinImporter, FrozenImporter, PathFinder)


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
        relative_name = base.lstrip(".")
        if level := len(base) - len(relative_name):
            parents = self.name.split(".")[: bool(self.folders) - level or None]
            base = ".".join(filter(None, [*parents, relative_name]))
        return (base, name) if base else (name, "")


class Parsed(msgspec.Struct, frozen=True, array_like=True):
    """What a file of code holds.

    digest: of its syntax tree, or of its bytes if it has none. definitions: function, class, method
    or variable → digest. imports: `a.b` for `import a.b`, `a.b:c` for `from a.b import c`, with
    dots before relative ones. plain: classes that only define a step type. words: all names in it,
    also in strings; `*` among them if it may look for classes that it doesn't name.
    """

    digest: str
    definitions: dict[str, str]
    imports: list[str]
    plain: list[str]
    words: frozenset[str]


class Imports:
    """Where modules are: in the folders of `sys.path`, and in others that a worker may add.

    extra_folders: those others. What is in one of them counts in addition to what comes first,
    since the order isn't known here. The working folder counts where nothing else is found.

    absent: takes the files that imports would read if they existed. listed_folders: takes the
    folders in which any new file may matter. archives: zip files in `sys.path`.
    """

    def __init__(
        self, extra_folders: Iterable[str], absent: set[str], listed_folders: set[str]
    ) -> None:
        entries = [os.path.abspath(e or ".") for e in sys.path if e not in ADDED]
        inherited = os.environ.get("PYTHONPATH")  # an empty entry is the working folder, too
        inherited_path = map(os.path.abspath, inherited.split(os.pathsep) if inherited else ())
        excluded = {os.getcwd()}.difference(inherited_path)  # not in the path of workers
        self._path = [e for e in dict.fromkeys(entries) if e not in excluded and os.path.isdir(e)]
        self._extra_folders = [*extra_folders]
        self._modules: dict[str, list[Module]] = {}
        self._finders: dict[str, FileFinder] = {}
        self._absent_paths, self._listed_folders = absent, listed_folders
        self.archives = [e for e in entries if os.path.isfile(e)]

    def find(self, name: str) -> list[Module]:
        """The modules of a dotted name: usually one, none if nobody has it."""
        if name not in self._modules:
            parent = name.rpartition(".")[0]
            folders = (
                [f for package in self.find(parent) for f in package.folders] if parent else ()
            )
            inside = (module for folder in folders for module in self._module_in(folder, name))
            self._modules[name] = [*dict.fromkeys(inside if parent else self._top_level(name))]
        return self._modules[name]

    def children(self, module: Module) -> Iterator[str]:
        """The names of the modules in a package."""
        for folder in module.folders:
            self._listed_folders.add(folder)
            for entry in sorted(os.listdir(folder)):
                name = entry.partition(".")[0]
                if name.isidentifier() and name not in ("__init__", "__pycache__"):
                    yield name

    def start_files(self) -> Iterator[str]:
        """The `.pth` files with code that Python runs at its start."""
        for folder in self._path:
            for name in os.listdir(folder) if code_origin(f"{folder}/") == "installed" else ():
                if name.endswith(".pth") and name != VIRTUALENV_FILE:
                    with open(f"{folder}/{name}", "rb") as file:
                        if re.search(rb"(?m)^import[ \t]", file.read()):
                            yield f"{folder}/{name}"

    def startup_modules(self) -> Iterator[Module]:
        """`sitecustomize` and the like, and modules that come before others of the same name."""
        for name in ("sitecustomize", "usercustomize"):
            path = getattr(sys.modules.get(name), "__file__", None)
            if path and code_origin(os.path.realpath(path)) != "standard":
                yield Module(name, path)
        for index, folder in enumerate(self._path):
            if code_origin(f"{folder}/"):
                break
            for name in {entry.partition(".")[0] for entry in os.listdir(folder)}:
                shadowing = [m for m in self._module_in(folder, name) if m.path]
                shadowed = (
                    m for later in self._path[index + 1 :] for m in self._module_in(later, name)
                )
                if shadowing and any(code_origin(module.path) for module in shadowed):
                    yield from shadowing

    def _top_level(self, name: str) -> Iterator[Module]:
        if name in sys.builtin_module_names:
            return
        is_found = False
        for folder in self._path:
            for module in self._module_in(folder, name):
                yield module
                is_found = bool(module.path)
            if is_found:
                break
        beside = [m for folder in self._extra_folders for m in self._module_in(folder, name)]
        yield from beside  # also of what is found, since a plugin may put its folder first
        if not (is_found or beside):
            yield from [*self._module_in(os.getcwd(), name)] or self._by_finders(name)

    def _module_in(self, folder: str, name: str) -> Iterator[Module]:
        """The module of that name in a folder, as Python would find it."""
        if folder not in self._finders:  # a new one knows what is in the folder now
            self._finders[folder] = FileFinder(folder, (SourceFileLoader, [*SUFFIXES]))
        last_name = name.rpartition(".")[2]
        spec = self._finders[folder].find_spec(last_name)
        origin = (spec.origin if spec is not None else None) or ""
        if code_origin(f"{folder}/") == "":
            candidates = (f"{folder}/{last_name}{end}" for end in MODULE_ENDS)
            for path in takewhile(origin.__ne__, candidates):
                if not os.path.exists(path):
                    self._absent_paths.add(path)
                elif not os.path.isdir(path):  # a file that a package might replace
                    self._listed_folders.add(folder)
        if spec is not None:
            yield Module(name, origin, (*(spec.submodule_search_locations or ()),))

    def _by_finders(self, name: str) -> Iterator[Module]:
        """What other finders find, such as those of editable installations, or what is loaded."""
        specs = []
        for finder in sys.meta_path:
            if finder not in _STANDARD_FINDERS:
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


def module_label(module: Module) -> str:
    """The path of a module's file as imports name it, wherever it is."""
    name, folders = os.path.basename(module.path), module.name.split(".")
    return "/".join([*(folders if module.folders else folders[:-1]), name])


def unique_label(digests: dict[str, str], label: str, digest: str) -> str:
    """Add a file to others; its label. Two files with the same import name both count."""
    while digests.get(label, digest) != digest:
        label += "'"
    digests[label] = digest
    return label
