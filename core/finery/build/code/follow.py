"""The digest of a step's code: its module and its imports from plugins and the kit.

Imports from packages of plugins and from `finery.rows` are followed, anywhere in a file, and also
imports of a recipe's plugin file from its project, and those of a file that settings name from the
file's folder. Installed libraries count by version (`packages=`), and the rest of finery by the
format of keys.
"""

from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from finery.build.code.resolve import Modules, Place
from finery.errors import PluginError
from finery.step.inspect import FILE_MODULE

OWN = "="
"""Value in `Parsed.bound` for a name that isn't plainly imported."""
DEEPEST = 8
"""Most packages that re-export a name from each other."""
Code = dict[str, str]
"""File, by its import path (`finery_data/steps/split.py`) → digest.

`package/__init__.py:name` → the module from which the package re-exports a name.
"""


class Parsed(msgspec.Struct, frozen=True, array_like=True):
    """The relevant parts of one file.

    digest: of its code. imports: see `parse._imports`. bound: see `parse._bindings`, only for
    `__init__` files.
    """

    digest: str
    imports: list[str]
    bound: dict[str, str]


class CodeReader:
    """Finds the code of classes, functions and modules.

    modules: finds the files. read: `parse.parse_file`, perhaps cached. It is called for every file
    that the code depends on.
    """

    def __init__(self, modules: Modules, read: Callable[[Path], Parsed]) -> None:
        self._modules = modules
        self._read = read

    def code_of(self, subject: Any, named_in: ModuleType | None = None) -> Code:
        """The code of a class or function, of a module by its name, or of a Python file.

        named_in: the module whose hook names the subject. It counts, too, unless it imports the
        subject plainly, since it may create it: `Short = step_type(most=100)`.
        """
        return self._follow([*self._starts(subject, named_in)])

    def _starts(self, subject: Any, named_in: ModuleType | None) -> Iterator[Place]:
        if isinstance(subject, Path):
            yield Place(subject.stem, subject, is_local=True, beside=subject.parent)
        elif isinstance(subject, str):
            yield self._loaded(subject)
        else:
            yield from map(self._loaded, _modules_of(subject))
            if named_in is not None and named_in.__name__ != subject.__module__:
                place = self._loaded(named_in.__name__)
                if not self._imports_plainly(place, subject):
                    yield place

    def _loaded(self, name: str) -> Place:
        file = getattr(import_module(name), "__file__", None)  # most often loaded already
        if file is None:
            raise PluginError(
                f"the code of {name} isn't in a file", fix="put the step type into a module"
            )
        path = Path(file)
        if name.startswith(FILE_MODULE) or self._modules.is_local(path):
            return Place(name, path, is_local=True)
        self._modules.add(name)
        return Place(name, path)

    def _imports_plainly(self, place: Place, subject: Any) -> bool:
        """Whether a module imported the subject under the subject's own name."""
        source = (subject.__module__, getattr(subject, "__name__", ""))
        return source in map(place.absolute, self._read(place.path).imports)

    def _follow(self, places: list[Place]) -> Code:
        code: Code = {}
        seen: set[Path] = set()
        while places:
            place = places.pop()
            if place.path in seen:
                continue
            seen.add(place.path)
            parsed = self._read(place.path)
            add(code, {place.label: parsed.digest})
            for imported in parsed.imports:
                places += self._targets(place, imported, code)
        return dict(sorted(code.items()))

    def _targets(self, importer: Place, imported: str, code: Code) -> list[Place]:
        """The files that an import reads."""
        base, name = importer.absolute(imported)
        if self._modules.is_followed(base, name):
            return self._in_package(base, name, code)
        if not importer.is_local or not base:
            return []
        return self._modules.in_project(base, name, importer.beside)

    def _in_package(self, base: str, name: str, code: Code, depth: int = 0) -> list[Place]:
        """The module that `from base import name` reads, or the one that defines the name.

        If the package's `__init__` only re-exports the name, it doesn't count as a whole.
        """
        package = self._modules.of_package(base) if self._modules.is_followed(base) else None
        module = self._modules.of_package(f"{base}.{name}") if name not in ("", "*") else None
        places = [module] if module is not None else []
        if package is None:
            return places
        if not name or not package.is_package:
            return [*places, package]
        source = self._read(package.path).bound.get(name)
        if source == OWN or depth == DEEPEST:
            return [*places, package]
        source, is_lazy, _ = (source or "").partition("?")
        target, _ = package.absolute(f"{source}:{name}")
        if not source or target == base:  # not bound there, or `from package import module`
            return places or [package]
        code[f"{package.label}:{name}"] = target
        if self._modules.is_followed(target, name):
            places += self._in_package(target, name, code, depth + 1)
        return [*places, package] if is_lazy else places


def _modules_of(subject: Any) -> Iterator[str]:
    """The modules of a class or function: those of its decorators and of the wrapped function."""
    while isinstance(subject, partial):
        subject = subject.func
    yield subject.__module__
    if hasattr(subject, "__wrapped__"):
        yield from _modules_of(subject.__wrapped__)


def add(code: Code, more: Code) -> None:
    """Add files to others. Two project files with the same import name both count."""
    for label, digest in more.items():
        while code.get(label, digest) != digest:
            label += "'"
        code[label] = digest
