"""Finds the files that an import reads, without importing anything."""

import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import machinery
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec

from finery.plugin.discovery import ADDED
from finery.util.installed import code_origin

SUFFIXES = (*machinery.EXTENSION_SUFFIXES, *machinery.SOURCE_SUFFIXES, *machinery.BYTECODE_SUFFIXES)
"""Of modules, in the order in which Python looks for them."""
_STANDARD_FINDERS = (machinery.BuiltinImporter, machinery.FrozenImporter, machinery.PathFinder)


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

    digest: of its syntax tree, or of its bytes if it has none. definitions: function, class or
    variable → digest. imports: `a.b` for `import a.b`, `a.b:c` for `from a.b import c`, with
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

    absent: takes the files that imports would read if they existed. watched: takes other files that
    may be replaced, and folders in which any new file matters. archives: zip files in `sys.path`.
    """

    def __init__(self, extra_folders: Iterable[str], absent: set[str], watched: set[str]) -> None:
        entries = [os.path.abspath(e or ".") for e in sys.path if e not in ADDED]
        inherited = os.environ.get("PYTHONPATH")  # an empty entry is the working folder, too
        inherited_path = map(os.path.abspath, inherited.split(os.pathsep) if inherited else ())
        excluded = {os.getcwd()}.difference(inherited_path)  # not in the path of workers
        self._path = [e for e in dict.fromkeys(entries) if e not in excluded and os.path.isdir(e)]
        self._extra_folders = [*extra_folders]
        self._modules: dict[str, list[Module]] = {}
        self._finders: dict[str, machinery.FileFinder] = {}
        self._absent, self._watched = absent, watched
        self.archives = [e for e in entries if os.path.isfile(e)]

    def find(self, name: str) -> list[Module]:
        """The modules of a dotted name: usually one, none if nobody has it."""
        if name not in self._modules:
            parent = name.rpartition(".")[0]
            folders = [f for each in (self.find(parent) if parent else ()) for f in each.folders]
            inside = (module for folder in folders for module in self._module_in(folder, name))
            self._modules[name] = [*dict.fromkeys(inside if parent else self._top_level(name))]
        return self._modules[name]

    def children(self, module: Module) -> Iterator[str]:
        """The names of the modules in a package."""
        for folder in module.folders:
            self._watched.add(folder)
            for entry in sorted(os.listdir(folder)):
                name = entry.partition(".")[0]
                if name.isidentifier() and name not in ("__init__", "__pycache__"):
                    yield name

    def start_files(self) -> Iterator[str]:
        """The `.pth` files with code that Python runs at its start."""
        for folder in self._path:
            for name in os.listdir(folder) if code_origin(f"{folder}/") == "installed" else ():
                # That of virtualenv and uv acts on installers.
                if name.endswith(".pth") and name != "_virtualenv.pth":
                    with open(f"{folder}/{name}", "rb") as file:
                        if re.search(rb"(?m)^import[ \t]", file.read()):
                            yield f"{folder}/{name}"

    def startup_modules(self) -> Iterator[Module]:
        """`sitecustomize` and the like, and modules that come before others of the same name."""
        customs = [m for name in ("sitecustomize", "usercustomize") for m in self.find(name)]
        yield from (module for module in customs if code_origin(module.path) != "standard")
        code_folders = [f for f in self._path if code_origin(f"{f}/")]
        hidden = {name for folder in code_folders for name in _names_in(folder)}
        for folder in takewhile(lambda f: f not in code_folders, self._path):
            for name in sorted(hidden & _names_in(folder)):
                yield from (module for module in self._module_in(folder, name) if module.path)

    def _top_level(self, name: str) -> list[Module]:
        modules: list[Module] = []
        folders = (*self._path, *self._extra_folders, os.getcwd())
        for folder in folders if name not in sys.builtin_module_names else ():
            # Those of extra folders count in any case: a plugin may put its folder first.
            if folder in self._extra_folders or not any(module.path for module in modules):
                modules += self._module_in(folder, name)
        if not any(module.path for module in modules):
            modules += self._by_finders(name)
        return modules

    def _module_in(self, folder: str, name: str) -> Iterator[Module]:
        """The module of that name in a folder, as Python would find it."""
        if folder not in self._finders:  # a new one knows what is in the folder now
            self._finders[folder] = machinery.FileFinder(
                folder, (machinery.SourceFileLoader, [*SUFFIXES])
            )
        last_name = name.rpartition(".")[2]
        spec = self._finders[folder].find_spec(last_name)
        origin = (spec.origin if spec is not None else None) or ""
        if code_origin(f"{folder}/") == "":
            ends = ("", *(f"/__init__{suffix}" for suffix in SUFFIXES), *SUFFIXES)
            for path in takewhile(origin.__ne__, (f"{folder}/{last_name}{end}" for end in ends)):
                if not os.path.isdir(path):  # a file might become a package
                    (self._watched if os.path.exists(path) else self._absent).add(path)
        if spec is not None:
            yield Module(name, origin, (*(spec.submodule_search_locations or ()),))

    @staticmethod
    def _by_finders(name: str) -> list[Module]:
        """What other finders find, such as those of editable installations, or what is loaded."""
        finders = (each for each in (*sys.meta_path, None) if each not in _STANDARD_FINDERS)
        for finder in finders:
            with contextlib.suppress(Exception):  # of anyone's, and if there is no such module
                spec: Any = finder.find_spec(name, None) if finder else sys.modules[name].__spec__
                path = spec.origin if os.path.isfile(spec.origin or "") else ""
                inside = filter(os.path.isdir, map(str, spec.submodule_search_locations or ()))
                if (folders := (*inside,)) or path:  # neither is in an archive
                    return [Module(name, path, folders)]
        return []


def _names_in(folder: str) -> set[str]:
    """What modules in a folder may be called."""
    return {entry.partition(".")[0] for entry in os.listdir(folder)}


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
