"""Finds what the names in a file refer to: definitions of this file or of others, or whole files.

Names are followed into packages of plugins and `finery.rows`, of a recipe's plugin file also into
its project, and of a file that settings name into the file's folder. Installed libraries count by
version (`packages=`), and the rest of finery by the format of keys.
"""

import builtins
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from blake3 import blake3

from finery.builder.code.resolve import CORE, Modules, Place
from finery.builder.code.units import (
    CALLED,
    EVERYWHERE,
    EXECUTES,
    ON_IMPORT,
    PASSED,
    STAR,
    TEXT,
    WHOLE,
    Parsed,
    Unit,
)

LAZY = "__getattr__"
STEP = frozenset({"finery.Step", "finery.step.step.Step"})
OPAQUE = frozenset({"builtins.eval", "builtins.exec", "eval", "exec", "globals"})
"""What reads definitions of its file in ways that can't be followed. Then everything counts."""
NAMESPACES = (
    "gc.get_objects.", "gc.get_referrers.", "inspect.currentframe.", "inspect.getmodule.",
    "inspect.stack.", "inspect.trace.", "sys._current_frames.", "sys._getframe.", "sys.modules.",
)  # fmt: skip
"""What gives the names of modules, with its attributes. Then all imported files count."""
READING = frozenset({"__dict__", "__getattribute__"})
"""Attributes of a module through which code may read any of its names."""
PLAIN_BASES = frozenset({*sys.stdlib_module_names, *dir(builtins), CORE, "msgspec"})
"""Packages and builtins with classes that can be derived from without an effect."""
SUBCLASSES = "__subclasses__()"
INSIDE = "*/"


class Node(NamedTuple):
    """A definition: a unit of a file.

    Or `WHOLE`, all of the file; `EXECUTES`, what it executes when it is imported; `INSIDE`, all
    imported modules of the package; of all imported files, `SUBCLASSES`, `EVERYWHERE`, all of them,
    and `TEXT`, their text; `.check`, a method in `OUTSIDE_KEYS`, of all step types; `=cut`, the
    docstrings and annotations of `cut`; `=`, of all definitions.
    """

    place: Place
    unit: str


End = Node | str
"""What a name refers to; text if it isn't followed, e.g. `json.dumps`."""
Edge = tuple[str, Node]
"""The piece of a definition that needs something, and what it needs."""
Digests = tuple[str, dict[str, str]]


class Names:
    """Follows names. What was found once is remembered.

    modules: finds the files. read: `parse.parse_file`, perhaps cached.
    """

    def __init__(self, modules: Modules, read: Callable[[str], Parsed]) -> None:
        self.modules = modules
        self.read = read
        self._edges: dict[tuple[str, str], list[Edge]] = {}
        self._on_import: dict[str, list[Node]] = {}
        self._ends: dict[tuple[str, str], list[End]] = {}
        self._placed: dict[str, list[Place]] = {}  # by module, of packages
        self._importing: dict[str, bool] = {}
        self._orders: dict[str, list[str]] = {}
        self._busy: set[tuple[str, str]] = set()
        self._steps: dict[tuple[str, str], bool] = {}
        self._digests: dict[tuple[str, tuple[int, ...], tuple[str, ...]], Digests] = {}

    # -- what needs what ---------------------------------------------------------------------------

    def edges(self, node: Node) -> list[Edge]:
        """What the pieces of a definition refer to and import."""
        key = (node.place.path, node.unit)
        if key not in self._edges:
            self._edges[key] = [*dict.fromkeys(self._edges_of(node))]
        return self._edges[key]

    def _edges_of(self, node: Node) -> Iterator[Edge]:
        parsed, place = self.read(node.place.path), node.place
        unit = parsed.units[node.unit]
        if unit.kind == "class" and (unit.acts or (unit.bases and self._base_acts(node, unit))):
            yield node.unit, Node(place, f"{PASSED}{node.unit}")  # to a library's base, say
        for index in unit.pieces:
            piece = parsed.pieces[index]
            for alias, target in piece.imports:
                yield from ((piece.name, Node(p, EXECUTES)) for p in self._executed(place, target))
                if alias == WHOLE:
                    for end in self._imported_by(place, target, ()):
                        if not isinstance(end, str):
                            yield piece.name, end
            for name in piece.reads:
                if name.startswith(CALLED):
                    if self._is_method(place, piece.imports, name.removeprefix(CALLED)):
                        yield piece.name, Node(place, f"{CALLED}{name.rpartition('.')[2]}")
                    continue
                if name.startswith(PASSED):
                    passed = self._passed(place, piece.imports, name.removeprefix(PASSED))
                    yield from ((piece.name, each) for each in passed)
                    continue
                if name in (EVERYWHERE, TEXT):
                    yield piece.name, Node(place, name)
                    continue
                if "__subclasses__" in name:
                    yield piece.name, Node(place, SUBCLASSES)
                for end in self._read_by(place, piece.imports, name):
                    if not isinstance(end, str):
                        yield piece.name, end
                    elif end in OPAQUE:
                        yield piece.name, Node(place, WHOLE)
                    elif f"{end}.".startswith(NAMESPACES):
                        yield piece.name, Node(place, EVERYWHERE)

    def _is_method(self, place: Place, imports: Iterable[tuple[str, str]], name: str) -> bool:
        """Whether a name may be a method of a step, rather than a function of a module."""
        owner, _, method = name.rpartition(".")
        if not owner:
            return True
        nodes = [e for e in self._read_by(place, imports, name) if not isinstance(e, str)]
        others = [node for node in nodes if node.unit != method]
        units = [self.read(node.place.path).units.get(node.unit) for node in others]
        return any(unit is None or unit.kind != "import" for unit in units)

    def _passed(
        self, place: Place, imports: Iterable[tuple[str, str]], name: str
    ) -> Iterator[Node]:
        """The definitions with docstrings or annotations that a value may be."""
        last = name.rpartition(".")[2]
        for end in self._read_by(place, imports, name):
            parsed = None if isinstance(end, str) else self.read(end.place.path)
            if parsed is not None and not isinstance(end, str) and end.unit in parsed.units:
                is_whole = "." not in name or end.unit == last
                unit = end.unit if is_whole else f"{end.unit}.{last}"
                if any(parsed.pieces[i].text for i in parsed.units[end.unit].pieces):
                    yield Node(end.place, f"{PASSED}{unit}")

    def on_import(self, place: Place) -> list[Node]:
        """What counts whenever a file is imported, and what the file imports."""
        if place.path not in self._on_import:
            self._on_import[place.path] = [*dict.fromkeys(self._on_import_of(place))]
        return self._on_import[place.path]

    def _on_import_of(self, place: Place) -> Iterator[Node]:
        parsed = self.read(place.path)
        for target in parsed.imports:
            yield from (Node(imported, EXECUTES) for imported in self._executed(place, target))
        for name, unit in parsed.units.items():
            node = Node(place, name)
            if name == ON_IMPORT or unit.acts or (unit.bases and self._base_acts(node, unit)):
                yield node

    def order(self, place: Place) -> list[str]:
        """Imports of a file that can have an effect, and its statements, in their order.

        Empty if their order can't matter.
        """
        if place.path not in self._orders:
            self._orders[place.path] = self._order_of(place)
        return self._orders[place.path]

    def _order_of(self, place: Place) -> list[str]:
        parsed = self.read(place.path)
        acting = {index for unit in self._acting(place) for index in parsed.units[unit].pieces}
        order: dict[str, None] = {}
        imports = 0
        for index, piece in enumerate(parsed.pieces):
            if index in acting:
                order[f"{piece.name} {piece.digest}"] = None
            elif piece.outside:
                continue
            elif piece.name in parsed.units and index in parsed.units[piece.name].pieces:
                for alias, target in piece.imports:
                    own = target.removesuffix(":*") if alias == STAR else target
                    if any(map(self._importing_acts, self._executed(place, own))):
                        order[target] = None
                        imports += 1
        return [*order] if imports and len(order) > 1 else []

    def _acting(self, place: Place) -> list[str]:
        """The units of a file that can have an effect on import."""
        return [node.unit for node in self.on_import(place) if node.unit != EXECUTES]

    def _importing_acts(self, place: Place) -> bool:
        """Whether importing a file, including everything that it imports, can have an effect."""
        if place.path in self._importing:
            return self._importing[place.path]
        seen: set[str] = set()
        pending = [place]
        acts = False
        while pending and not acts:
            each = pending.pop()
            if each.path not in seen:
                seen.add(each.path)
                acts = self._importing.get(each.path, bool(self._acting(each)))
                pending += [n.place for n in self.on_import(each) if n.unit == EXECUTES]
        self._importing |= {place.path: True} if acts else dict.fromkeys(seen, False)
        return acts

    def everything(self, place: Place) -> Iterator[Node]:
        """All definitions of a file, and all that it imports."""
        parsed = self.read(place.path)
        yield from (Node(place, name) for name in parsed.units)
        for piece in parsed.pieces:
            for alias, target in () if piece.outside else piece.imports:
                if alias != EXECUTES:
                    for end in self._imported_by(place, target.removesuffix(":*"), ()):
                        if not isinstance(end, str) and end.unit != PASSED:
                            yield end

    def derived(self, place: Place) -> Iterator[Node]:
        """The classes of a file that are derived from others."""
        for name, unit in self.read(place.path).units.items():
            if unit.bases:
                yield Node(place, name)

    def _executed(self, importer: Place, target: str) -> Iterator[Place]:
        """The files that importing a target executes: the module and the packages around it."""
        base, name = importer.absolute(target)
        if not (importer.is_local or self.modules.is_followed(base, name)):
            return
        parts = [*base.split("."), *([name] if name not in ("", "*") else [])]
        for end in range(1, len(parts) + 1):
            yield from self._places(importer, ".".join(parts[:end]))

    def packages(self, place: Place) -> Iterator[Place]:
        """The packages around a module, which are imported before it."""
        parents = place.module.split(".")[:-1]
        for end in range(1, len(parents) + 1):
            yield from self._places(place, ".".join(parents[:end]))

    def digests(
        self, place: Place, pieces: Iterable[int], passed: Iterable[str] = ()
    ) -> tuple[str, dict[str, str]]:
        """(digest of pieces of a file, function, method or variable → its digest).

        Also of the order of its imports. passed: definitions with docstrings that count.
        """
        key = place.path, (*sorted(pieces),), (*sorted(passed),)
        if key not in self._digests:
            read = tuple(name and f"{name}." for name in key[2])
            counted = [
                (piece.name, piece.digest + piece.text * f"{piece.name}.".startswith(read))
                for piece in (self.read(place.path).pieces[index] for index in key[1])
            ]
            order = self.order(place)
            lines = [*(f"{name}\0{digest}" for name, digest in counted), *order]
            names: dict[str, str] = {}
            for name, digest in counted:
                names[name] = names.get(name, "") + digest
            if order:
                digest = blake3("\n".join(order).encode()).hexdigest()
                names[ON_IMPORT] = names.get(ON_IMPORT, "") + digest
            self._digests[key] = blake3("\n".join(lines).encode()).hexdigest(), names
        return self._digests[key]

    # -- base classes ------------------------------------------------------------------------------

    def is_step(self, node: Node) -> bool:
        """Whether a class is derived from `finery.Step`."""
        key = (node.place.path, node.unit)
        if key not in self._steps:
            self._steps[key] = False  # in a circle
            unit = self.read(node.place.path).units.get(node.unit)
            self._steps[key] = unit is not None and any(
                end in STEP if isinstance(end, str) else self.is_step(end)
                for end in self._bases(node, unit)
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
        if end.unit == WHOLE:
            return True
        unit = self.read(end.place.path).units[end.unit]
        if unit.kind == "import":  # what it imports is another end
            return False
        return unit.kind != "class" or unit.registers or self._base_acts(end, unit)

    def _bases(self, node: Node, unit: Unit) -> list[End]:
        return [end for base in unit.bases for end in self._read_by(node.place, (), base)]

    # -- what a name reads -------------------------------------------------------------------------

    def _read_by(self, place: Place, imports: Iterable[tuple[str, str]], name: str) -> list[End]:
        """What a name in a file refers to. imports: (alias, target) in its function."""
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
        """What an imported target refers to, or its attributes `rest`."""
        module, name = importer.absolute(target)
        yield from self._attribute(importer, module, (name, *rest) if name else rest)

    def _attribute(self, importer: Place, module: str, rest: tuple[str, ...]) -> Iterator[End]:
        places = self._places(importer, module)
        for place in places:
            yield from self._named(place, rest[0], rest[1:]) if rest else _passed_on(place)
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
        """What a name of a module refers to. inside: in the module itself."""
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
                yield from self._named(inner, rest[0], rest[1:]) if rest else _passed_on(inner)
        if not found and name in parsed.typing:
            found = True
            yield from [Node(place, LAZY)] if LAZY in parsed.units else ()
            yield from self._imported_by(place, parsed.typing[name], rest)
        if STAR in parsed.units or STAR in parsed.on_import:
            for end in self._by_star(place, parsed, name, rest, inside):
                if not (found and _is_whole(end)):  # it may override the name
                    yield end
        elif not (found or inside) and name in READING:
            yield from _passed_on(place)
        elif not (found or inside or name.startswith("__")):
            yield Node(place, WHOLE)

    def _by_star(
        self, place: Place, parsed: Parsed, name: str, rest: tuple[str, ...], inside: bool
    ) -> Iterator[End]:
        """What a name refers to that `from module import *` may bind."""
        stars = [
            (unit, target)
            for unit in (STAR, ON_IMPORT)
            for index in (parsed.units[unit].pieces if unit in parsed.units else ())
            for alias, target in parsed.pieces[index].imports
            if alias == STAR
        ]
        for unit, target in stars:
            for end in self._imported_by(place, f"{target.removesuffix(':*')}:{name}", rest):
                if not (inside and _is_whole(end) and hasattr(builtins, name)):
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


def _passed_on(place: Place) -> list[End]:
    """A module as a value, of which code may read anything."""
    inside = [Node(place, INSIDE)] if place.is_package else []
    return [Node(place, WHOLE), Node(place, PASSED), *inside]


def _is_whole(end: End) -> bool:
    return isinstance(end, Node) and end.unit in (INSIDE, PASSED, WHOLE)
