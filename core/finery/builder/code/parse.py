"""Takes a Python file apart into its definitions, with the names that each of them reads."""

import ast
import copy
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from blake3 import blake3

from finery.builder.code.bindings import (
    FUNCTION_SCOPES,
    FUNCTIONS,
    SCOPES,
    Bindings,
    arguments_of,
    bound,
    bound_by_import,
    chain,
    children,
    defaults,
    walk,
)
from finery.builder.code.counted import counted, texts_in, values_in
from finery.builder.code.effects import Effects, is_property, plain_names
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
    Piece,
    Unit,
)
from finery.errors import PluginError
from finery.step.inspect import OUTSIDE_KEYS

DIGITS = 16
"""Hex digits of a piece's digest."""
IMPORT_MODULE = "importlib:import_module"
OUTSIDE = frozenset({"finery.outside_key"})
"""Decorators of definitions that stay out of keys."""
NAMESPACES = frozenset({"__globals__", "f_globals", "f_locals"})
"""Attributes with the names of a module, perhaps of another file."""
UNFOLLOWED = frozenset({"eval", "exec", "globals"})
"""Builtins that read definitions in ways that can't be followed."""
INSPECTING = frozenset({
    "TypeAdapter", "__annotations__", "__doc__", "__finery_fields__", "findsource",
    "get_annotations", "get_json_schema", "get_type_hints", "getcomments", "getdoc",
    "getfullargspec", "getline", "getlines", "getsource", "getsourcelines", "model_json_schema",
    "msgspec.json.schema", "schema_components", "signature",
})  # fmt: skip
"""Names that read annotations, docstrings, help or source text of anything."""


def parse_file(path: str | Path) -> Parsed:
    """The definitions of one file. A compiled module or a file without code counts by its bytes."""
    source = Path(path).read_bytes()
    if Path(path).suffix != ".py":
        return Parsed({ON_IMPORT: Unit([0])}, [Piece(ON_IMPORT, blake3(source).hexdigest())])
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise PluginError(
            f"syntax error: {error.msg}", where=f"{path}:{error.lineno}", fix="repair it"
        ) from error
    typing = {
        alias: target
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for alias, target in bound_by_import(statement)
        if alias not in (EXECUTES, STAR)
    }
    nodes = [*walk([tree])]
    declared = (node for node in nodes if isinstance(node, ast.Global))
    outside = Bindings([*walk([tree], without=FUNCTION_SCOPES), *declared])
    anywhere = Bindings(nodes)
    texts = sorted(text for node in nodes for text in texts_in(node))
    values = values_in(nodes, anywhere)
    tree = counted(tree, nodes, outside, anywhere)
    return _Module(tree, outside, texts, values).parsed(typing, _digest(source))


class _Module:
    """Collects the units and pieces of a module."""

    def __init__(
        self, tree: ast.Module, names: Bindings, texts: list[tuple[int, str]],
        values: Mapping[int, str],
    ) -> None:  # fmt: skip
        """names: what the module binds outside of functions. texts: see `texts_in`, sorted.

        values: see `values_in`.
        """
        self._lines = [line for line, _ in texts]
        self._texts = [text for _, text in texts]
        self._values = values
        self._value_names = {*values.values()}
        self.tree = tree
        self.names = names
        self.effects = Effects(names)
        self.pieces: list[Piece] = []
        self.units: dict[str, Unit] = {}
        self.imports: dict[str, None] = {}
        self.on_import: dict[str, None] = {}
        self._sources = {a: t for node in tree.body for a, t in bound_by_import(node)}

    def parsed(self, typing: Mapping[str, str], source: str) -> Parsed:
        for node in self.tree.body:
            self._add(node)
        if STAR not in (*self.units, *self.on_import):  # no other name is that of a definition
            names = {*self.units, *self.on_import, *typing, *UNFOLLOWED, EVERYWHERE, TEXT}
            names |= {f"{PASSED}{name}" for name in names if self._may_have_text(name)}
            self.pieces = [_without_others(piece, names) for piece in self.pieces]
        imports, on_import = [*self.imports], [*self.on_import]
        return Parsed(self.units, self.pieces, imports, on_import, dict(typing), source)

    def _may_have_text(self, name: str) -> bool:
        """Whether a name may stand for a definition with docstrings or annotations."""
        pieces = [self.pieces[i] for i in self.units[name].pieces] if name in self.units else []
        return not pieces or any(piece.text or piece.imports for piece in pieces)

    def _add(self, node: ast.stmt) -> None:
        match node:
            case ast.Pass():
                pass
            case ast.Import() | ast.ImportFrom():
                for alias, target in bound_by_import(node):
                    self.imports[target] = None
                    # also of `a`, which `import a.b` binds
                    name = target.partition(".")[0] if alias == EXECUTES else alias
                    reads = [TEXT] if target.rpartition(":")[2] in INSPECTING else []
                    piece = Piece(name, _digest(f"{alias} {target}"), reads, [(alias, target)])
                    self._bind([name], [piece], kind="import")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                self._bind([name], [self._piece(name, node)], acts=self.effects.of_function(node))
            case ast.ClassDef(name=name):
                self._class(node)
            case ast.Assign() | ast.AnnAssign() if names := plain_names(node):
                piece = self._piece(names[0], node)
                self._bind(
                    names, [piece], acts=node.value is not None and self.effects.of(node.value)
                )
            case _:
                piece = self._piece(ON_IMPORT, node)
                self._bind([ON_IMPORT], [piece])
                self.imports.update((target, None) for _, target in piece.imports)
                self.on_import |= dict.fromkeys(bound([node]))
                self.on_import |= {alias: None for alias, _ in piece.imports}

    def _bind(
        self, names: Iterable[str], pieces: list[Piece], *, kind: str = "",
        acts: bool = False, bases: Iterable[str] = (), registers: bool = False,
    ) -> None:  # fmt: skip
        """Add pieces to the units with these names."""
        start = len(self.pieces)
        self.pieces += pieces
        added = [*range(start, len(self.pieces))]
        for name in names:
            old = self.units.get(name, Unit([], kind))
            self.units[name] = Unit(
                [*old.pieces, *added], kind if kind == old.kind else "", acts or old.acts,
                [*old.bases, *bases], registers or old.registers,
            )  # fmt: skip

    def _class(self, node: ast.ClassDef) -> None:
        bases = [chain(b.value if isinstance(b, ast.Subscript) else b) for b in node.bases]
        registers = any(map(self.effects.registers, walk([node])))
        acts = registers or None in bases or self.effects.of_class(node)
        self._bind(
            [node.name], [*self._class_pieces(node)], kind="class", acts=acts,
            bases=[base for base in bases if base is not None], registers=registers,
        )  # fmt: skip

    def _piece(self, name: str, node: ast.stmt | ast.keyword, *, outside: bool = False) -> Piece:
        reader = _Reader(self._sources, self._values)
        reader.visit(node)
        outside |= any(map(self._is_outside, getattr(node, "decorator_list", ())))
        first, last = bisect_left(self._lines, node.lineno), node.end_lineno
        text = "\0".join(self._texts[first : bisect_right(self._lines, last or 0)])
        digest = _digest(ast.dump(node) + text * self._is_read(name, node))
        text = text and _digest(text)
        return Piece(name, digest, [*reader.reads], [*reader.imports], outside, text)

    def _is_read(self, name: str, node: ast.AST) -> bool:
        """Whether code may read the docstring of a method, or of a definition in a function."""
        if not isinstance(node, FUNCTIONS):
            return False
        is_value = "." in name and f".{node.name}" in self._value_names
        if is_value and not any(is_property(d, self.names) for d in node.decorator_list):
            return True
        inner = [n for n in ast.walk(node) if isinstance(n, SCOPES) and n is not node]
        return any(
            n.name in self._value_names or (isinstance(n, ast.ClassDef) and bool(n.bases))
            for n in inner
            if not isinstance(n, ast.Lambda)
        )

    def _is_outside(self, decorator: ast.expr) -> bool:
        """Whether a decorator is `finery.outside_key`."""
        sources = self.names.sources(chain(decorator))
        return bool(sources) and sources <= OUTSIDE

    def _class_pieces(
        self, node: ast.ClassDef, within: str = "", *, outside: bool = False
    ) -> Iterator[Piece]:
        """The head of a class, its keywords, fields and methods; of a class in it, too."""
        name = f"{within}{node.name}"
        outside |= any(map(self._is_outside, node.decorator_list))
        head = copy.copy(node)
        head.keywords, head.body = [], []
        yield self._piece(name, head, outside=outside)
        for keyword in node.keywords:
            yield self._piece(f"{name}.({keyword.arg or '**'})", keyword, outside=outside)
        for statement in node.body:
            match statement:
                case ast.ClassDef():
                    yield from self._class_pieces(statement, f"{name}.", outside=outside)
                case (
                    ast.FunctionDef(name=inner)
                    | ast.AsyncFunctionDef(name=inner)
                    | ast.Assign(targets=[ast.Name(id=inner)])
                    | ast.AnnAssign(target=ast.Name(id=inner))
                ):
                    yield self._piece(f"{name}.{inner}", statement, outside=outside)
                case _:
                    yield self._piece(name, statement, outside=outside)


def _without_others(piece: Piece, bound: set[str]) -> Piece:
    """A piece without the builtins that it reads."""
    aliases = [alias for alias, _ in piece.imports]
    bound = bound.union(aliases, (f"{PASSED}{alias}" for alias in aliases)) if aliases else bound
    reads = [
        name
        for name in piece.reads
        if name.partition(".")[0] in bound or name.startswith(CALLED) or "__subclasses__" in name
    ]
    return msgspec.structs.replace(piece, reads=reads)


def _digest(code: str | bytes) -> str:
    return blake3(code.encode() if isinstance(code, str) else code).hexdigest()[:DIGITS]


# -- names that code reads -------------------------------------------------------------------------


class _Reader:
    """Collects the names that code reads and that aren't local to it, and its imports."""

    def __init__(self, sources: Mapping[str, str], values: Mapping[int, str]) -> None:
        """sources: name → what the module imports it from. values: see `values_in`."""
        self._sources = sources
        self._values = values
        self.reads: dict[str, None] = {}
        self.imports: dict[tuple[str, str], None] = {}
        self._local: list[frozenset[str]] = []  # of the functions around

    def visit(self, node: ast.AST) -> None:
        visitor = getattr(self, f"visit_{node.__class__.__name__}", None)
        if visitor is not None:
            visitor(node)
        else:
            self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> None:
        for child in children(node):
            self.visit(child)

    def _read(self, name: str, node: ast.AST) -> None:
        if not self._is_local(name):
            self.reads[name] = None
            if id(node) in self._values:
                self.reads[PASSED + name.partition(".__")[0]] = None  # `f.__code__`

    def _is_local(self, name: str) -> bool:
        root = name.partition(".")[0]
        return any(root in names for names in self._local)

    def visit_Name(self, node: ast.Name) -> None:
        self._read(node.id, node)  # also where it is bound: `global x; x = 1`
        if node.id in INSPECTING and (node.id[0] == "_" or STAR in self._sources):
            self.reads[TEXT] = None

    def visit_Constant(self, node: ast.Constant) -> None:
        if node.value in ("__annotations__", "__doc__"):  # `getattr(f, "__doc__")`
            self.reads[TEXT] = None

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = chain(node)
        parts = [node.attr] if name is None else name.split(".")
        if not NAMESPACES.isdisjoint(parts):
            self.reads[EVERYWHERE] = None
        if not INSPECTING.isdisjoint((*parts, name)):
            self.reads[TEXT] = None
        while len(parts) > 1 and parts[-1].startswith("__"):  # `step.check.__call__`
            parts.pop()
        if parts[-1] in OUTSIDE_KEYS:
            owner = [] if self._is_local(parts[0]) else parts[:-1]
            self.reads[CALLED + ".".join([*owner, parts[-1]])] = None
        if name is None:
            self.generic_visit(node)
        else:
            self._read(name, node)

    def visit_Global(self, node: ast.Global) -> None:
        self.reads |= dict.fromkeys(node.names)  # also where a function around has the name

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if chain(node.value) == "sys.modules" and chain(node.slice) == "__name__":
            self.reads["globals"] = None
        else:
            self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        match node:
            case ast.Compare(
                left=left,
                ops=[ast.In() | ast.NotIn()],
                comparators=[
                    ast.Attribute(
                        attr="parameters",
                        value=ast.Call(
                            func=ast.Attribute(value=owner, attr="signature"), args=args
                        ),
                    )
                ],
            ):  # reads only names
                for each in (left, owner, *args):
                    self.visit(each)
            case _:
                self.generic_visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imports |= dict.fromkeys(bound_by_import(node))
        if any(alias.name in INSPECTING for alias in node.names):
            self.reads[TEXT] = None

    visit_ImportFrom = visit_Import

    def visit_Call(self, node: ast.Call) -> None:
        match node.func:
            case ast.Attribute(attr=name) | ast.Name(id=name) if (
                name in ("import_module", "__import__")
                or self._sources.get(name) == IMPORT_MODULE
                or (name, IMPORT_MODULE) in self.imports
            ):
                if module := _module_named_in(node):
                    self.imports[WHOLE, module] = None
        for given in node.args:
            if isinstance(given, ast.Constant) and given.value in OUTSIDE_KEYS:
                self.reads[f"{CALLED}{given.value}"] = None  # `getattr(step, "check")`
        match node:
            case ast.Call(func=ast.Name(id="vars" | "locals" | "dir"), args=[], keywords=[]):
                if not self._local:
                    self.reads["globals"] = None
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for each in (*node.decorator_list, *defaults(node.args)):
            self.visit(each)
        for argument in arguments_of(node.args):
            self._annotation(argument.annotation)
        self._annotation(node.returns)
        self._inside(_names_of(node), node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for each in defaults(node.args):
            self.visit(each)
        self._inside(_names_of(node), [node.body])

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotation(node.annotation)
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_ListComp(self, node: ast.AST) -> None:
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        self.visit(generators[0].iter)
        names = frozenset(bound([each.target for each in generators]))
        self._inside(names, children(node))

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def _inside(self, names: frozenset[str], nodes: Iterable[ast.AST]) -> None:
        self._local.append(names)
        for node in nodes:
            self.visit(node)
        self._local.pop()

    def _annotation(self, node: ast.expr | None) -> None:
        """Read an annotation that counts; one in quotes, too."""
        for each in ast.walk(node) if node is not None else ():
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                try:
                    self.visit(ast.parse(each.value, mode="eval"))
                except (SyntaxError, ValueError):  # a text, e.g. in `Annotated`
                    continue
        if node is not None:
            self.visit(node)


def _names_of(function: ast.AST) -> frozenset[str]:
    """The local names of a function, without those that it imports."""
    names = {argument.arg for argument in arguments_of(function.args)}  # type: ignore[attr-defined]
    if isinstance(function, FUNCTIONS):
        outer: set[str] = set()
        names.update(bound(function.body, outer))
        names -= outer
    return frozenset(names)


# -- imports -----------------------------------------------------------------------------------


def _module_named_in(node: ast.Call) -> str:
    """The module of `importlib.import_module("x")`; empty if it is computed."""
    arguments = dict(zip(("name", "package"), node.args, strict=False))
    arguments |= {keyword.arg or "": keyword.value for keyword in node.keywords}
    module, package = (_text(arguments.get(name)) for name in ("name", "package"))
    if not module.startswith(".") or not package:
        return module
    dots = len(module) - len(module.lstrip("."))
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - dots + 1], module.lstrip(".")])


def _text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
