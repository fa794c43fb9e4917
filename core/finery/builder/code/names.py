"""What the names in a file read: definitions of this file, of others, or whole files.

Names are followed into packages of plugins and `finery.rows`, of a recipe's plugin file also into
its project, and of a file that settings name into the file's folder. Installed libraries count by
version (`packages=`), and the rest of finery by the format of keys.
"""

import builtins
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from finery.builder.code.resolve import CORE, Modules, Place
from finery.builder.code.units import CALLED, EXECUTES, ON_IMPORT, STAR, WHOLE, Parsed, Unit

LAZY = "__getattr__"
STEP = frozenset({"finery.Step", "finery.step.step.Step"})
OPAQUE = frozenset({
    "eval", "exec", "globals", "builtins.eval", "builtins.exec", "gc.get_objects",
    "inspect.currentframe", "inspect.getmodule", "inspect.stack", "sys._getframe", "sys.modules",
})  # fmt: skip
"""What reads definitions in ways that can't be followed. In a file with one, everything counts."""
PLAIN_BASES = frozenset({*sys.stdlib_module_names, *dir(builtins), CORE, "msgspec"})
"""Packages and builtins with classes that can be derived from without an effect."""


class Node(NamedTuple):
    """A definition: a unit of a file."""

    place: Place
    unit: str


class Whole(NamedTuple):
    """All of a file."""

    place: Place


class Imported(NamedTuple):
    """What a file executes when it is imported."""

    place: Place


class Subclasses(NamedTuple):
    """All derived classes of imported files, since something reads `__subclasses__`."""


End = Node | Whole | str
"""What a name reads; text if that isn't followed, e.g. `json.dumps`."""
Edge = tuple[str, Node | Whole | Imported | Subclasses]
"""The piece of a definition that needs something, and what it needs."""


class Names:
    """Follows names. What was found once is remembered.

    modules: finds the files. read: `parse.parse_file`, perhaps cached.
    """

    def __init__(self, modules: Modules, read: Callable[[Path], Parsed]) -> None:
        self.modules = modules
        self.read = read
        self._edges: dict[tuple[Path, str], list[Edge]] = {}
        self._on_import: dict[Path, list[Edge]] = {}
        self._ends: dict[tuple[Path, str], list[End]] = {}
        self._placed: dict[str, list[Place]] = {}  # by module, of packages
        self._importing: dict[Path, bool] = {}
        self._busy: set[tuple[Path, str]] = set()
        self._steps: dict[tuple[Path, str], bool] = {}

    # -- what needs what ---------------------------------------------------------------------------

    def edges(self, node: Node) -> list[Edge]:
        """What the pieces of a definition read and import."""
        key = (node.place.path, node.unit)
        if key not in self._edges:
            self._edges[key] = _unique(self._edges_of(node))
        return self._edges[key]

    def _edges_of(self, node: Node) -> Iterator[Edge]:
        parsed, place = self.read(node.place.path), node.place
        for index in parsed.units[node.unit].pieces:
            piece = parsed.pieces[index]
            for alias, target in piece.imports:
                yield from ((piece.name, Imported(p)) for p in self._executed(place, target))
                if alias == WHOLE:
                    for end in self._imported_by(place, target, ()):
                        if not isinstance(end, str):
                            yield piece.name, end
            for name in piece.reads:
                if name.startswith(CALLED):
                    continue
                if "__subclasses__" in name:
                    yield piece.name, Subclasses()
                for end in self._read_by(place, piece.imports, name):
                    if not isinstance(end, str):
                        yield piece.name, end
                    elif _is_opaque(end):
                        yield piece.name, Whole(place)

    def on_import(self, place: Place) -> list[Edge]:
        """What counts whenever a file is imported, and what it imports."""
        if place.path not in self._on_import:
            self._on_import[place.path] = _unique(self._on_import_of(place))
        return self._on_import[place.path]

    def _on_import_of(self, place: Place) -> Iterator[Edge]:
        parsed = self.read(place.path)
        for target in parsed.imports:
            yield from ((ON_IMPORT, Imported(p)) for p in self._executed(place, target))
        for name, unit in parsed.units.items():
            if name == ON_IMPORT or unit.acts or self._base_acts(Node(place, name), unit):
                yield ON_IMPORT, Node(place, name)

    def order(self, place: Place) -> list[str]:
        """Imports of a file that can have an effect, and its statements, in their order.

        Empty if their order can't matter.
        """
        parsed = self.read(place.path)
        acting = {index for name in self._acting(place) for index in parsed.units[name].pieces}
        order: dict[str, None] = {}
        imports = 0
        for index, piece in enumerate(parsed.pieces):
            if index in acting:
                order[f"{piece.name} {piece.digest}"] = None
            elif piece.name in parsed.units and index in parsed.units[piece.name].pieces:
                for alias, target in piece.imports:
                    own = target.removesuffix(":*") if alias == STAR else target
                    if any(map(self._importing_acts, self._executed(place, own))):
                        order[target] = None
                        imports += 1
        return [*order] if imports and len(order) > 1 else []

    def _acting(self, place: Place) -> list[str]:
        """The units of a file that can have an effect on import."""
        ends = (end for _, end in self.on_import(place))
        return [e.unit for e in ends if isinstance(e, Node) and e.place.path == place.path]

    def _importing_acts(self, place: Place) -> bool:
        """Whether importing a file, with all that it imports, can have an effect."""
        if place.path not in self._importing:
            seen: dict[Path, Place] = {}
            pending = [place]
            while pending:
                each = pending.pop()
                if each.path not in seen:
                    seen[each.path] = each
                    ends = [end for _, end in self.on_import(each)]
                    pending += [end.place for end in ends if isinstance(end, Imported)]
            self._importing[place.path] = any(map(self._acting, seen.values()))
        return self._importing[place.path]

    def everything(self, place: Place) -> Iterator[Node | Whole]:
        """All definitions of a file, and all that it imports."""
        parsed = self.read(place.path)
        yield from (Node(place, name) for name in parsed.units)
        for piece in parsed.pieces:
            for alias, target in piece.imports:
                if alias != EXECUTES:
                    for end in self._imported_by(place, target.removesuffix(":*"), ()):
                        if not isinstance(end, str):
                            yield end

    def derived(self, place: Place) -> Iterator[Node]:
        """The classes of a file that are derived from others."""
        for name, unit in self.read(place.path).units.items():
            if unit.bases:
                yield Node(place, name)

    def _executed(self, importer: Place, target: str) -> Iterator[Place]:
        """The files that importing a target executes: the module and the packages around it."""
        base, name = importer.absolute(target)
        parts = [*base.split("."), *([name] if name not in ("", "*") else [])]
        for end in range(1, len(parts) + 1):
            yield from self._places(importer, ".".join(parts[:end]))

    def packages(self, place: Place) -> Iterator[Place]:
        """The packages around a module, which are imported before it."""
        parents = place.module.split(".")[:-1]
        for end in range(1, len(parents) + 1):
            yield from self._places(place, ".".join(parents[:end]))

    # -- base classes ------------------------------------------------------------------------------

    def is_step(self, node: Node) -> bool:
        """Whether a class is derived from `finery.Step`."""
        key = (node.place.path, node.unit)
        if key not in self._steps:
            self._steps[key] = False  # in a circle
            self._steps[key] = any(
                end in STEP if isinstance(end, str) else isinstance(end, Node) and self.is_step(end)
                for end in self._bases(node, self.read(node.place.path).units[node.unit])
            )
        return self._steps[key]

    def _base_acts(self, node: Node, unit: Unit) -> bool:
        """Whether deriving a class from its bases can have an effect."""
        key = (node.place.path, f"class {node.unit}")
        if key in self._busy:
            return False
        self._busy.add(key)
        try:
            return any(map(self._acts_as_base, self._bases(node, unit)))
        finally:
            self._busy.remove(key)

    def _acts_as_base(self, end: End) -> bool:
        if isinstance(end, str):
            return end.partition(".")[0] not in PLAIN_BASES
        if isinstance(end, Whole):
            return True
        unit = self.read(end.place.path).units[end.unit]
        if unit.kind == "import":  # what it imports is another end
            return False
        return unit.kind != "class" or unit.registers or self._base_acts(end, unit)

    def _bases(self, node: Node, unit: Unit) -> list[End]:
        return [end for base in unit.bases for end in self._read_by(node.place, (), base)]

    # -- what a name reads -------------------------------------------------------------------------

    def _read_by(self, place: Place, imports: Iterable[tuple[str, str]], name: str) -> list[End]:
        """What a name in a file reads. imports: (alias, target) of the function that reads it."""
        root, *rest = name.split(".")
        key = (place.path, name)
        if key not in self._ends:
            self._ends[key] = [*self._named(place, root, (*rest,), inside=True)] or [name]
        ends = self._ends[key]
        for alias, target in imports:
            if alias == root:
                ends = [*ends, *self._imported_by(place, target, (*rest,))]
            elif alias == EXECUTES and not rest and target.partition(".")[0] == root:
                ends = [*ends, *self._imported_by(place, target, ())]
        return ends

    def _imported_by(self, importer: Place, target: str, rest: tuple[str, ...]) -> Iterator[End]:
        """What an imported target reads, or `rest` as its attributes."""
        module, name = importer.absolute(target)
        yield from self._attribute(importer, module, (name, *rest) if name else rest)

    def _attribute(self, importer: Place, module: str, rest: tuple[str, ...]) -> Iterator[End]:
        places = self._places(importer, module)
        for place in places:
            yield from self._named(place, rest[0], rest[1:]) if rest else [Whole(place)]
        if places:
            return
        is_inside = importer.is_local or module == CORE or self.modules.is_followed(module)
        if rest and is_inside:  # perhaps a folder without __init__
            inner = [*self._attribute(importer, f"{module}.{rest[0]}", rest[1:])]
            if any(not isinstance(end, str) for end in inner):
                yield from inner
                return
        yield ".".join([module, *rest])

    def _named(
        self, place: Place, name: str, rest: tuple[str, ...], *, inside: bool = False
    ) -> Iterator[End]:
        """What a name of a module reads. inside: in the module itself."""
        key = (place.path, name)
        if key in self._busy:  # modules that import a name from each other
            return
        self._busy.add(key)
        try:
            yield from self._named_once(place, name, rest, inside)
        finally:
            self._busy.remove(key)

    def _named_once(
        self, place: Place, name: str, rest: tuple[str, ...], inside: bool
    ) -> Iterator[End]:
        parsed = self.read(place.path)
        units = [name] if name in parsed.units else []
        units += [ON_IMPORT] if name in parsed.on_import else []
        for unit in units:
            yield Node(place, unit)
            for index in parsed.units[unit].pieces:
                for alias, target in parsed.pieces[index].imports:
                    if alias == name or (alias == EXECUTES and unit == name and not rest):
                        yield from self._imported_by(place, target, rest)
        found = bool(units)
        if place.is_package and not (inside and found):
            for inner in self._places(place, f"{place.module}.{name}"):
                found = True
                yield from self._named(inner, rest[0], rest[1:]) if rest else [Whole(inner)]
        if not found and name in parsed.typing:
            found = True
            yield from [Node(place, LAZY)] if LAZY in parsed.units else ()
            yield from self._imported_by(place, parsed.typing[name], rest)
        if STAR in parsed.units or STAR in parsed.on_import:
            for end in self._by_star(place, parsed, name, rest, inside):
                if not (found and isinstance(end, Whole)):  # it may override the name
                    yield end
        elif not (found or inside or (name.startswith("__") and name != "__dict__")):
            yield Whole(place)

    def _by_star(
        self, place: Place, parsed: Parsed, name: str, rest: tuple[str, ...], inside: bool
    ) -> Iterator[End]:
        """What a name reads that `from module import *` may bind."""
        stars = [
            (unit, target)
            for unit in (STAR, ON_IMPORT)
            for index in (parsed.units[unit].pieces if unit in parsed.units else ())
            for alias, target in parsed.pieces[index].imports
            if alias == STAR
        ]
        for unit, target in stars:
            for end in self._imported_by(place, f"{target.removesuffix(':*')}:{name}", rest):
                if not (inside and isinstance(end, Whole) and hasattr(builtins, name)):
                    yield Node(place, unit)
                    yield end

    def _places(self, importer: Place, module: str) -> list[Place]:
        """The files that are imported under a name, without those of the packages around them."""
        if module in self._placed:
            return self._placed[module]
        if self.modules.is_followed(module):
            place = self.modules.of_package(module)
            self._placed[module] = [place] if place is not None else []
            return self._placed[module]
        if not importer.is_local or not module:
            return []
        found = self.modules.in_project(module, "", importer.beside)
        return [place for place in found if place.module == module]


def _is_opaque(name: str) -> bool:
    """Also of `sys.modules.get`."""
    return any(name == each or name.startswith(f"{each}.") for each in OPAQUE)


def _unique(edges: Iterable[Edge]) -> list[Edge]:
    # With their classes, since named tuples of the same place are equal.
    return [*{(name, type(end), end): (name, end) for name, end in edges}.values()]
