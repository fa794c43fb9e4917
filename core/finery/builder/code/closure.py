"""The code that classes, functions, modules and files reach, as files with digests.

finery's own code counts by definition (`table`). Of everything else, all files count that can be
imported from there, whole: files of a project, and the contents of plugin packages. Distributions
count by version, with what they require. Of a file with several step types, those may be left out
that can't matter (`finery.plugin.several`).
"""

import os
import re
import sys
from collections.abc import Collection
from functools import partial
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
from blake3 import blake3

from finery.builder.code.imports import Module, Parsed, module_label, unique_label
from finery.builder.code.index import CodeIndex
from finery.builder.code.table import WHOLE_LABEL, definitions_in
from finery.errors import PluginError
from finery.step.inspect import FILE_MODULE
from finery.util.installed import (
    Distribution,
    code_origin,
    distributions,
    is_finery_module,
    plugin_packages,
)

Code = dict[str, str]
"""File, by its import path (`finery_data/steps/split.py`) → digest of what counts in it."""
Subject = tuple[Any, ModuleType | None]
"""A class, function, module, name of a module, or file; and the module whose hook names it."""
REGISTRY_NAMES = frozenset({
    "distributions", "entry_points", "importlib_metadata", "iter_entry_points",
    "packages_distributions", "pkg_resources",
})  # fmt: skip
"""Names of what reads which distributions are installed, besides `importlib.metadata`."""
HARDWARE_PACKAGES = re.compile(r"nvidia-|cuda-|triton|pytorch-triton|intel-")
"""Distributions that a build of torch for other hardware doesn't need."""


class Closure:
    """What subjects reach.

    packages: distributions that count by version. files, folders: those that this depends on.
    left_out: plugin file → step types in it that don't count: a worker doesn't define them.
    """

    def __init__(self, index: CodeIndex, subjects: Collection[Subject]) -> None:
        self.subjects = subjects
        self._index = index
        self._imports = index.imports(named for named, _ in subjects if isinstance(named, Path))
        self._counted = {getattr(named, "__qualname__", "").split(".")[0] for named, _ in subjects}
        while True:
            self._follow()
            words = {word for file in self._loose.values() for word in self._parsed(file).words}
            left_out = {name for names in self.left_out.values() for name in names}
            # Classes that code which counts may look for:
            if not (needed := left_out if "*" in words else left_out & words):
                return
            self._counted |= needed

    # -- following -------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Follow everything from the subjects."""
        self.left_out: dict[str, list[str]] = {}
        self.code: Code = {}
        self.packages: set[str] = set()
        self.files: set[str] = set()
        self.folders: set[str] = set()
        self._names: dict[str, dict[str, str]] = {}
        self._own: dict[str, set[str]] = {}
        self._loose: dict[str, Module] = {}
        self._pending: list[Module] = []
        self._versions: set[tuple[str, str]] = set()
        for named, named_in in self.subjects:
            self._start(named, named_in)
        for archive in self._imports.archives:
            self._visit(Module("", archive))
        while self._pending:
            module = self._pending.pop()
            parsed = self._parsed(module)
            if parsed.words & REGISTRY_NAMES or parsed.words >= {"importlib", "metadata"}:
                self.code["installed distributions"] = self._index.registry
            for imported in parsed.imports:
                self._import(*module.absolute(imported))
        for label, digests in self._own.items():
            text = " ".join(sorted(digests))  # of what several subjects need
            self.code[label] = text if len(digests) == 1 else blake3(text.encode()).hexdigest()
        for module in self._loose.values():
            self.files.add(module.path)
            parsed = self._parsed(module)
            unique_label(self.code, module_label(module), parsed.digest)
            self._names[parsed.digest] = parsed.definitions
        self.code = dict(sorted(self.code.items()))

    def _parsed(self, module: Module) -> Parsed:
        return self._index.files.parsed(module.path, self.left_out.get(module.path, ()))

    def _start(self, subject: Any, naming_module: ModuleType | None) -> None:
        if isinstance(subject, Path | Module):
            file = Module(subject.stem, str(subject)) if isinstance(subject, Path) else subject
            self._visit(file)
            return
        if isinstance(subject, str):
            self._import_own(subject, "") if is_finery_module(subject) else self._start_in(subject)
            return
        while isinstance(subject, partial) or hasattr(subject, "__wrapped__"):
            if hasattr(subject, "__wrapped__"):
                self._start_in(subject.__module__)
            subject = subject.func if isinstance(subject, partial) else subject.__wrapped__
        subject = subject if hasattr(subject, "__qualname__") else type(subject)
        if is_finery_module(subject.__module__):
            self._count_own(f"{subject.__module__}:{subject.__qualname__}")
        bases = getattr(subject, "__mro__", (subject,))
        own_bases = [base for base in bases if is_finery_module(base.__module__)]
        own = {base for own_base in own_bases for base in getattr(own_base, "__mro__", (own_base,))}
        for base in (base for base in bases if base not in own):
            self._start_in(base.__module__)
        if naming_module is not None and not is_finery_module(naming_module.__name__):
            self._start_in(naming_module.__name__)

    def _start_in(self, name: str) -> None:
        """Follow a module that is imported already, or that the `code` of a `Key` names."""
        if name.partition(".")[0] in sys.stdlib_module_names:
            return
        module = import_module(name)
        path = getattr(module, "__file__", None)
        if path is None:
            raise PluginError(f"the code of {name} isn't in a file", fix="put it into a module")
        if not name.startswith(FILE_MODULE):
            self._import(name, "")
        is_package = is_finery_module(name) or name.partition(".")[0] in plugin_packages()
        if not is_package and code_origin(path) == "":
            self._visit(Module(name, path, (*getattr(module, "__path__", ()),)))

    def _visit(self, module: Module) -> None:
        """Count a file that belongs to no distribution, and follow its imports."""
        if not module.path or (real := os.path.realpath(module.path)) in self._loose:
            return
        self._loose[real] = module
        self._pending.append(module)
        if module.name.startswith(FILE_MODULE):
            plain = self._index.files.parsed(module.path).plain
            self.left_out[module.path] = [name for name in plain if name not in self._counted]

    def _import(self, base: str, name: str) -> None:
        """Follow an import. name: of what is imported from it."""
        top = base.partition(".")[0]
        if is_finery_module(base):
            self._import_own(base, name)
        elif (distribution := plugin_packages().get(top)) is not None:
            self._count_contents(distribution)
        elif top.isidentifier():
            modules = self._imports.find(top)
            if not modules and top not in sys.stdlib_module_names:
                self.packages.add(top)
            places = {code_origin(module.path or module.folders[0]) for module in modules}
            owners = self._index.installed.owners.get(top, ()) if "installed" in places else ()
            for owner in owners:
                self._count_version(owner, "")
            if "" in places or ("installed" in places and not owners):
                self._walk(base, name)

    def _walk(self, base: str, name: str) -> None:
        """Visit the files of a module and of the packages that it is in."""
        modules = self._imports.find(base) if name == "*" else ()
        inside = [name, *(child for module in modules for child in self._imports.children(module))]
        names = [*accumulate(base.split("."), "{}.{}".format)]
        names += (f"{base}.{child}" for child in inside if child.isidentifier())
        for module in (module for parent in names for module in self._imports.find(parent)):
            if code_origin(module.path) != "standard":
                self._visit(module)

    # -- counting --------------------------------------------------------------------------------

    def _import_own(self, base: str, name: str) -> None:
        for subject in self._index.own.import_subjects(base, name):
            self._count_own(subject)

    def _count_own(self, subject: str) -> None:
        for label, digest in self._index.own.code_of(subject).items():
            self._own.setdefault(label, set()).add(digest)
            paths = self._index.own.paths
            self.files.update(paths.values() if label == WHOLE_LABEL else [paths[label]])

    def _count_contents(self, distribution: Distribution) -> None:
        if distribution.name in self.code:
            return
        contents = self._index.contents(distribution)
        digest = blake3(msgspec.json.encode([*contents.digests.items()])).hexdigest()
        self.code[distribution.name] = digest
        self._names[digest] = contents.digests
        self.files.update(contents.paths)
        self.folders |= contents.folders
        self._pending += contents.modules()

    def _count_version(self, name: str, extra: str) -> None:
        """Count a distribution and what it requires, for an extra of it or without."""
        if (name, extra) in self._versions or name not in distributions():
            return
        self._versions.add((name, extra))
        self.packages.add(name)
        if record := self._index.installed.records.get(name):
            self.code[f"{name} (files)"] = record
        for required, extras, needed_extra in self._index.installed.requires[name]:
            if needed_extra in ("", extra) and not HARDWARE_PACKAGES.match(required):
                for extra_name in ("", *extras):
                    self._count_version(required, extra_name)

    def names(self) -> dict[str, dict[str, str]]:
        """Digest in `code` → definition, or file of a package → its digest."""
        own_names = {
            self.code[label]: {n: v for d in digests for n, v in definitions_in(label, d).items()}
            for label, digests in self._own.items()
        }
        return {digest: names for digest, names in (self._names | own_names).items() if names}
