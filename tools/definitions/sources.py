"""The modules of finery's packages, and what the names in them refer to."""

import builtins
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from tools.definitions.parse import Module, Unit, parse

KIT = ("finery.rows", "finery.views")
"""The parts of the core with code that counts like that of plugins."""
COUNTED = (*(f"{part}." for part in KIT), "finery_")
"""Start of the names of modules with code that counts."""
TABLE = "finery/builder/code/definitions.json"
STEP = frozenset({"finery.Step", "finery.step.step.Step"})


class Node(NamedTuple):
    """A definition: a unit of a module."""

    module: str
    unit: str


End = Node | str
"""What a name refers to; text if it isn't followed, e.g. `json.dumps`."""


class Sources:
    """The packages of a checkout.

    files: label → file, of all files but the table. modules: name → label of its file, of those
    with code that counts.
    """

    def __init__(self, root: Path) -> None:
        folders = [root / "core" / "finery", *sorted((root / "plugins").iterdir())]
        self.files = {
            file.relative_to(folder.parent).as_posix(): file
            for folder in folders
            for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name[0] != "." and "__pycache__" not in file.parts
        }
        self.files.pop(TABLE, None)
        self.modules: dict[str, str] = {}
        for label in self.files:
            name = label.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            if label.endswith(".py") and f"{name}.".startswith(COUNTED):
                self.modules[name] = label
        self.module_of = {label: name for name, label in self.modules.items()}
        self._packages = {name.rpartition(".")[0] for name in self.modules}
        self.read = cache(self._read)
        self._ends = cache(self._ends_of)
        self.is_step = cache(self._is_step)

    def _read(self, module: str) -> Module:
        label = self.modules[module]
        return parse(self.files[label].read_bytes(), label)

    def unit(self, node: Node) -> Unit:
        return self.read(node.module).units[node.unit]

    def data(self, label: str, text: str) -> set[str]:
        """The labels of the file that a text in a file names, and of what that template includes.

        It is named as one in the same folder, or as `package.folder/name`.
        """
        package, _, path = text.partition("/")
        beside = f"{label.rpartition('/')[0]}/{text}"
        for name in (beside, f"{package.replace('.', '/')}/{path}"):
            if name in self.files:
                quoted = re.findall(r'"([^"\s]+)"', self._template(name))
                return {name}.union(*(self.data(name, each) for each in quoted))
        return set()

    def _template(self, label: str) -> str:
        return self.files[label].read_text(encoding="utf-8") if label.endswith(".jinja") else ""

    def code(self, text: str) -> bool:
        """Whether a text names code that counts: `module` or `module:Name`."""
        module, _, name = text.partition(":")
        return module in self.modules and ("." in module or name.isidentifier())

    def is_unknown(self, name: str) -> bool:
        """Whether a full name is in a package of plugins or the kit, but not a module there."""
        is_inside = f"{name}.".startswith(COUNTED)
        return is_inside and (name not in self.modules or name in self._packages)

    def digest(self, label: str) -> str:
        return blake3(self.files[label].read_bytes()).hexdigest()

    def _is_step(self, node: Node) -> bool:
        """Whether a class is derived from `finery.Step`."""
        ends = [end for base in self.unit(node).bases for end in self.ends(node.module, base)]
        return any(end in STEP if isinstance(end, str) else self.is_step(end) for end in ends)

    def ends(self, module: str, name: str, imports: Iterable[tuple[str, str]] = ()) -> list[End]:
        """What a name in a module refers to. imports: (alias, target) in its function."""
        root, *rest = name.split(".")
        ends = [end for a, t in imports if a == root for end in self._imported(t, (*rest,))]
        if root in self.read(module).units:
            return [*ends, *self._ends(module, name)]
        return ends or ([f"builtins.{name}"] if hasattr(builtins, root) else [])

    def _ends_of(self, module: str, name: str) -> list[End]:
        root, *rest = name.split(".")
        return [*self._named(module, root, (*rest,))]

    def _imported(self, target: str, rest: tuple[str, ...]) -> Iterator[End]:
        module, _, name = target.partition(":")
        yield from self._attribute(module, (name, *rest) if name else rest)

    def _attribute(self, module: str, rest: tuple[str, ...]) -> Iterator[End]:
        if not rest:
            yield module
        elif module in self.modules and rest[0] in self.read(module).units:
            yield from self._named(module, rest[0], rest[1:])
        elif f"{module}.{rest[0]}" in self._packages.union(self.modules):
            yield from self._attribute(f"{module}.{rest[0]}", rest[1:])
        elif not (module in self.modules and rest[0] in (*self.read(module).typing, "__name__")):
            yield ".".join([module, *rest])

    def _named(self, module: str, name: str, rest: tuple[str, ...]) -> Iterator[End]:
        yield Node(module, name)
        for piece in self.read(module).units[name].pieces:
            for alias, target in piece.imports:
                if alias == name and target == f"{module}:{name}":  # a module of the package
                    yield from self._attribute(f"{module}.{name}", rest)
                elif alias == name:
                    yield from self._imported(target, rest)

    def everything(self, module: str) -> Iterator[Node]:
        """All definitions of a module, and all that it imports."""
        for name in self.read(module).units:
            for end in self.ends(module, name):
                if isinstance(end, Node):
                    yield end
                elif end in self.modules:
                    yield from self.everything(end)
