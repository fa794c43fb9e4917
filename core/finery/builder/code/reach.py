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

from finery.builder.code.names import End, Imported, Names, Node, Subclasses, Whole
from finery.builder.code.resolve import Modules, Place
from finery.builder.code.units import CALLED, ON_IMPORT
from finery.errors import PluginError
from finery.step.inspect import FILE_MODULE, OUTSIDE_KEYS

Code = dict[str, str]
"""File, by its import path (`finery_data/steps/split.py`) → digest of the definitions in it."""
Subject = tuple[Any, ModuleType | None]
"""A class, function, module name or file, and the module whose hook names it.

All of that module counts if it may create the subject: `Short = step_type(most=100)`.
"""
Source = tuple[Node, str] | None
"""The definition from which another is reached, and the piece of it that reads the other."""


class Reach:
    """All definitions that subjects reach. checks: also follow `OUTSIDE_KEYS` of step types.

    code: file → digest of what counts of it. names: such a digest → function, method or variable →
    its digest. files: those that the code depends on. is_installed: whether none of them belongs to
    a project.
    """

    def __init__(self, names: Names, subjects: Iterable[Subject], *, checks: bool = False) -> None:
        self._names = names
        self._excluded: frozenset[str] = frozenset() if checks else OUTSIDE_KEYS
        self._nodes: dict[tuple[Path, str], Node] = {}
        self._from: dict[tuple[Path, str], Source] = {}
        self._imported: dict[Path, Place] = {}
        self._whole: set[Path] = set()
        self._pending: deque[Node] = deque()
        self._has_subclasses = False  # whether something reads `__subclasses__`
        for subject, named_in in subjects:
            for end in [*self._starts(subject, named_in)]:
                self._reach(end, None)
        while self._pending:
            self._follow(self._pending.popleft())
            if not self._pending and (called := self._called()):  # those methods count, too
                self._excluded -= called
                self._pending.extend(filter(self._names.is_step, self._nodes.values()))
        self.files = {*self._imported}
        self.is_installed = not any(place.is_local for place in self._imported.values())
        self.code: Code = {}
        self.names: dict[str, dict[str, str]] = {}
        self._labels: dict[str, Path] = {}
        self._summarize()

    def _follow(self, node: Node) -> None:
        outside = self._outside(node)
        for piece, needed in self._names.edges(node):
            if piece not in outside:
                self._reach(needed, (node, piece))

    def _called(self) -> set[str]:
        """The excluded methods that other code calls: `self.check()`."""
        called: set[str] = set()
        for node in filter(self._names.is_step, self._nodes.values()) if self._excluded else ():
            parsed, outside = self._names.read(node.place.path), self._outside(node)
            for piece in (parsed.pieces[index] for index in parsed.units[node.unit].pieces):
                if piece.name not in outside:
                    called.update(r.removeprefix(CALLED) for r in piece.reads if r[0] == CALLED)
        return called & self._excluded

    def _summarize(self) -> None:
        counted: dict[Path, set[int]] = {}
        for (path, unit), node in self._nodes.items():
            parsed, outside = self._names.read(path), self._outside(node)
            counted.setdefault(path, set()).update(
                i for i in parsed.units[unit].pieces if parsed.pieces[i].name not in outside
            )
        orders = {path: self._names.order(place) for path, place in self._imported.items()}
        for path in filter(orders.get, orders):
            counted.setdefault(path, set())
        for path, indices in counted.items():
            pieces = [self._names.read(path).pieces[index] for index in sorted(indices)]
            lines = [f"{piece.name}\0{piece.digest}" for piece in pieces]
            lines += orders[path]
            digest = blake3("\n".join(lines).encode()).hexdigest()
            names: dict[str, str] = {}
            for piece in pieces:
                names[piece.name] = names.get(piece.name, "") + piece.digest
            if orders[path]:
                order = blake3("\n".join(orders[path]).encode()).hexdigest()
                names[ON_IMPORT] = names.get(ON_IMPORT, "") + order
            label = add(self.code, self._imported[path].label, digest)
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
        return {path: {*self.names[self.code[label]]} for label, path in self._labels.items()}

    def units(self) -> dict[str, list[str]]:
        """File → the functions, classes and variables that count, without imported names."""
        units: dict[str, list[str]] = {label: [] for label in self.code}
        for label, path in self._labels.items():
            for name, unit in self._names.read(path).units.items():
                if (path, name) in self._nodes and unit.kind != "import":
                    units[label].append(name)
        return units

    # -- where it starts -------------------------------------------------------------------------

    def _starts(self, subject: Any, named_in: ModuleType | None) -> Iterator[End]:
        if isinstance(subject, Path):
            yield Whole(Place(subject.stem, subject, is_local=True, beside=subject.parent))
            return
        if isinstance(subject, str):
            yield Whole(loaded(subject, self._names.modules))
            return
        inner = subject.func if isinstance(subject, partial) else subject
        place, name = (
            loaded(inner.__module__, self._names.modules),
            getattr(inner, "__qualname__", ""),
        )
        unit = name.partition(".")[0]
        if unit in self._names.read(place.path).units and inner is subject and _is_named(subject):
            yield Node(place, unit)
            return
        yield Whole(place)
        if isinstance(subject, partial) or hasattr(subject, "__wrapped__"):
            yield from self._starts(getattr(inner, "__wrapped__", inner), None)
        if named_in is not None and named_in.__name__ != inner.__module__:
            yield Whole(loaded(named_in.__name__, self._names.modules))

    # -- following it ----------------------------------------------------------------------------

    def _reach(self, end: End | Imported | Subclasses, source: Source) -> None:
        match end:
            case Node(place, unit):
                key = (place.path, unit)
                if key not in self._nodes:
                    self._nodes[key] = end
                    self._from.setdefault(key, source)
                    self._pending.append(end)
                    self._import(place, source)
            case Whole(place) if place.path not in self._whole:
                self._whole.add(place.path)
                for inner in self._names.everything(place):
                    self._reach(inner, source)
                self._import(place, source)
            case Imported(place):
                self._import(place, source)
            case Subclasses() if not self._has_subclasses:
                self._has_subclasses = True
                for place in [*self._imported.values()]:
                    for inner in self._names.derived(place):
                        self._reach(inner, source)

    def _import(self, place: Place, source: Source) -> None:
        """Reach what a file executes when it is imported."""
        if place.path in self._imported:
            return
        self._imported[place.path] = place
        for package in self._names.packages(place):
            self._import(package, source)
        self._from.setdefault((place.path, ON_IMPORT), source)
        for _, end in self._names.on_import(place):
            own = isinstance(end, Node) and end.unit == ON_IMPORT
            self._reach(end, source if own else (Node(place, ON_IMPORT), ON_IMPORT))
        if self._has_subclasses:
            for node in self._names.derived(place):
                self._reach(node, (Node(place, ON_IMPORT), ON_IMPORT))

    def _outside(self, node: Node) -> set[str]:
        """The pieces of a step type that can't change its output."""
        if not self._names.is_step(node):
            return set()
        return {f"{node.unit}.{name}" for name in self._excluded}


def loaded(name: str, modules: Modules) -> Place:
    """The place of a module, imported if it isn't yet. From now on its package is followed."""
    file = getattr(import_module(name), "__file__", None)
    if file is None:
        raise PluginError(
            f"the code of {name} isn't in a file", fix="put the step type into a module"
        )
    path = Path(file)
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
    module = place.path.stem if is_file else place.module.rpartition(".")[2]
    return f"{module}.{name}" if name else f"{module} on import"


def add(code: Code, label: str, digest: str) -> str:
    """Add a file to others; its label. Two project files with the same import name both count."""
    while code.get(label, digest) != digest:
        label += "'"
    code[label] = digest
    return label
