"""The definitions that a step can reach, from its class through the names that they read.

Wherever names can't be followed, as after `globals()`, the whole file counts.
"""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from blake3 import blake3

from finery.builder.code.names import INSIDE, SUBCLASSES, Names, Node
from finery.builder.code.resolve import Modules, Place
from finery.builder.code.units import (
    CALLED,
    EVERYWHERE,
    EXECUTES,
    ON_IMPORT,
    PASSED,
    TEXT,
    WHOLE,
)
from finery.errors import PluginError
from finery.step.inspect import FILE_MODULE, OUTSIDE_KEYS

Code = dict[str, str]
"""File, by its import path (`finery_data/steps/split.py`) → digest of the definitions in it."""
Subject = tuple[Any, ModuleType | None]
"""A class, function, module name, file or node, and the module whose hook names it.

All of that module counts if it may create the subject: `Short = step_type(most=100)`.
"""
Source = tuple[Node, str] | None
"""The definition from which another is reached, and the piece of it that reads the other."""


class Reach:
    """All definitions that subjects reach.

    checks: also follow `OUTSIDE_KEYS` of step types, and what is marked `outside_key`.

    code: file → digest of what counts of it. names: such a digest → function, method or variable →
    its digest. marked: definitions that are reached and marked `outside_key`, or have methods that
    are. files: those that the code depends on. is_installed: whether none of them belongs to a
    project.
    """

    def __init__(self, names: Names, subjects: Iterable[Subject], *, checks: bool = False) -> None:
        self._names = names
        self._checks = checks
        self._excluded: frozenset[str] = frozenset() if checks else OUTSIDE_KEYS
        self._steps: dict[tuple[str, str], Node] = {}
        self._outside: dict[tuple[str, str], set[str]] = {}  # the pieces that can't change outputs
        self.marked: list[Node] = []
        self._from: dict[tuple[str, str], Source] = {}
        self._imported: dict[str, Place] = {}
        self._counted: dict[str, list[str]] = {}  # file → units
        self._reached: set[tuple[str, str]] = set()
        self._pending: deque[Node] = deque()
        self._passed: dict[str, set[str]] = {}  # file → definitions whose docstrings count
        self._everywhere: set[str] = set()  # what code reads of all imported files
        self._packages: tuple[str, ...] = ()  # of which all imported modules count
        for subject, named_in in subjects:
            for node in [*self._starts(subject, named_in)]:
                self._reach(node, None)
        while self._pending:
            node = self._pending.popleft()
            outside = self._outside.get((node.place.path, node.unit), ())
            for piece, needed in names.edges(node):
                is_new = (needed.place.path, needed.unit) not in self._reached  # most aren't
                if is_new and piece not in outside:
                    self._reach(needed, (node, piece))
        self.files = {*self._imported}
        self.is_installed = not any(place.is_local for place in self._imported.values())
        self.code: Code = {}
        self.names: dict[str, dict[str, str]] = {}
        self._labels: dict[str, str] = {}
        self._summarize()

    def _outside_of(self, node: Node) -> set[str]:
        """The pieces of a definition that stay out of the key."""
        outside = set() if self._checks else self._marked_in(node)
        if self._names.is_step(node):
            outside.update(f"{node.unit}.{name}" for name in self._excluded)
        return outside

    def _marked_in(self, node: Node) -> set[str]:
        parsed = self._names.read(node.place.path)
        pieces = [parsed.pieces[index] for index in parsed.units[node.unit].pieces]
        marked = {piece.name for piece in pieces if piece.outside}
        return marked - {piece.name for piece in pieces if not piece.outside} if marked else marked

    def _summarize(self) -> None:
        for path, place in self._imported.items():
            indices = {i for unit in self._counted.get(path, ()) for i in self._in_key(path, unit)}
            text = self._names.read(path).source if TEXT in self._everywhere else ""
            if not (indices or text or self._names.order(place)):
                continue
            digest, names = self._names.digests(place, indices, self._passed.get(path, ()))
            if text:
                digest = blake3(f"{digest} {text}".encode()).hexdigest()
                names = {**names, TEXT: text}
            label = add(self.code, place.label, digest)
            self.names[digest], self._labels[label] = names, path
        self.code = dict(sorted(self.code.items()))

    def path_to(self, label: str, name: str) -> list[str]:
        """The definitions through which the subject reaches one: `Split.run`, `strata.cut`."""
        path = self._labels.get(label)
        if path is None:
            return []
        key = (path, name if (path, name) in self._from else name.partition(".")[0])
        names = [_shown(self._imported[path], name)]
        first = name
        while source := self._from.get(key):
            node, first = source
            names.append(_shown(node.place, first))
            key = (node.place.path, node.unit)
        return [first or names[-1], *names[-2::-1]]

    def definitions(self) -> dict[Path, set[str]]:
        """File → the functions, methods and variables that count."""
        return {Path(path): {*self.names[self.code[label]]} for label, path in self._labels.items()}

    def units(self) -> dict[str, list[str]]:
        """File → the functions, classes and variables that count, without imported names."""
        units: dict[str, list[str]] = {}
        for label, path in self._labels.items():
            kinds = {name: unit.kind for name, unit in self._names.read(path).units.items()}
            counted = (n for n in self._counted.get(path, ()) if kinds[n] != "import")
            units[label] = [name for name in counted if self._in_key(path, name)]
        return units

    def _in_key(self, path: str, unit: str) -> list[int]:
        """The positions of the pieces of a reached unit that count."""
        parsed, outside = self._names.read(path), self._outside.get((path, unit), ())
        return [i for i in parsed.units[unit].pieces if parsed.pieces[i].name not in outside]

    # -- where it starts -------------------------------------------------------------------------

    def _starts(self, subject: Any, named_in: ModuleType | None) -> Iterator[Node]:
        if isinstance(subject, Node):
            yield subject
            return
        if isinstance(subject, Path):
            path, folder = str(subject), str(subject.parent)
            yield Node(Place(subject.stem, path, is_local=True, beside=folder), WHOLE)
            return
        if isinstance(subject, str):
            yield Node(loaded(subject, self._names.modules), WHOLE)
            return
        inner = subject.func if isinstance(subject, partial) else subject
        place = loaded(inner.__module__, self._names.modules)
        unit = getattr(inner, "__qualname__", "").partition(".")[0]
        if unit in self._names.read(place.path).units and inner is subject and _is_named(subject):
            yield Node(place, unit)
            return
        yield Node(place, WHOLE)
        if isinstance(subject, partial) or hasattr(subject, "__wrapped__"):
            yield from self._starts(getattr(inner, "__wrapped__", inner), None)
        if named_in is not None and named_in.__name__ != inner.__module__:
            yield Node(loaded(named_in.__name__, self._names.modules), WHOLE)

    # -- following it ----------------------------------------------------------------------------

    def _reach(self, node: Node, source: Source) -> None:
        place, unit = node
        key = place.path, unit
        if key in self._reached:
            return
        self._reached.add(key)
        if unit.startswith(CALLED):  # the methods of that name count, too
            self._excluded -= {unit.removeprefix(CALLED)}
            self._outside |= {key: self._outside_of(step) for key, step in self._steps.items()}
            self._pending.extend(self._steps.values())
            return
        if unit.startswith(PASSED):
            self._passed.setdefault(place.path, set()).add(unit.removeprefix(PASSED))
            return
        if unit in (EVERYWHERE, INSIDE, SUBCLASSES, TEXT):
            self._everywhere.add(unit)
            self._packages += (f"{place.module}.",) if unit == INSIDE else ()
            for imported in [*self._imported.values()]:
                self._reach_anywhere(imported, source)
            return
        if unit == WHOLE:
            for inner in self._names.everything(place):
                self._reach(inner, source)
        elif unit != EXECUTES:
            self._counted.setdefault(place.path, []).append(unit)
            self._from.setdefault(key, source)
            if self._names.is_step(node):
                self._steps[key] = node
            if outside := self._outside_of(node):
                self._outside[key] = outside
            if not self._checks and self._marked_in(node):
                self.marked.append(node)
            self._pending.append(node)
        if place.path not in self._imported:
            self._import(place, source)

    def _import(self, place: Place, source: Source) -> None:
        """Reach what a file executes when it is imported."""
        self._imported[place.path] = place
        for package in self._names.packages(place):
            self._reach(Node(package, EXECUTES), source)
        self._from.setdefault((place.path, ON_IMPORT), source)
        on_import = Node(place, ON_IMPORT), ON_IMPORT
        for node in self._names.on_import(place):
            self._reach(node, source if node.unit == ON_IMPORT else on_import)
        self._reach_anywhere(place, source)

    def _reach_anywhere(self, place: Place, source: Source) -> None:
        """Reach what counts of an imported file since code reads it of any, or of a package."""
        if SUBCLASSES in self._everywhere:
            for node in self._names.derived(place):
                self._reach(node, source)
        if EVERYWHERE in self._everywhere or place.module.startswith(self._packages):
            self._reach(Node(place, WHOLE), source)
        if TEXT in self._everywhere:
            self._from.setdefault((place.path, TEXT), source)


def loaded(name: str, modules: Modules) -> Place:
    """The place of a module, imported if it isn't yet. From now on its package is followed."""
    file = getattr(import_module(name), "__file__", None)
    if file is None:
        raise PluginError(
            f"the code of {name} isn't in a file", fix="put the step type into a module"
        )
    path = str(Path(file))
    if name.startswith(FILE_MODULE) or modules.is_local(path):
        return Place(name, path, is_local=True)
    modules.add(name)
    return Place(name, path)


def modules_of(subject: Subject) -> Iterator[str]:
    """The modules that define a subject and that name it; none for a file."""
    named, named_in = subject
    if not isinstance(named, Path):
        inner = named.func if isinstance(named, partial) else named
        yield named if isinstance(named, str) else inner.__module__
    if named_in is not None:
        yield named_in.__name__


def _is_named(subject: Any) -> bool:
    """Whether a class or function is what its module has under its name."""
    found: Any = sys.modules[subject.__module__]
    for name in subject.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is subject


def _shown(place: Place, name: str) -> str:
    """A definition in a path: `strata.cut`; `strata on import` for other statements."""
    is_file = place.module.startswith(FILE_MODULE)
    module = Path(place.path).stem if is_file else place.module.rpartition(".")[2]
    return f"{module}.{name}" if name else f"{module} on import"


def add(code: Code, label: str, digest: str) -> str:
    """Add a file to others; its label. Two project files with the same import name both count."""
    while code.get(label, digest) != digest:
        label += "'"
    code[label] = digest
    return label
