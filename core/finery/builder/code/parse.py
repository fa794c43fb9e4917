"""Takes a Python file apart into its definitions, with the names that each of them reads."""

import ast
import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from blake3 import blake3

from finery.builder.code.counted import PLAIN_DECORATORS, arguments_of, children, counted, walk
from finery.builder.code.units import CALLED, EXECUTES, ON_IMPORT, STAR, WHOLE, Parsed, Piece, Unit
from finery.errors import PluginError
from finery.step.inspect import OUTSIDE_KEYS

DIGITS = 16
"""Hex digits of a piece's digest."""
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
PURE_MODULES = frozenset({
    "abc", "collections", "contextlib", "contextvars", "dataclasses", "datetime", "enum", "finery",
    "fractions", "functools", "itertools", "math", "msgspec", "pathlib", "re", "statistics",
    "string", "struct", "textwrap", "threading", "types", "typing",
})  # fmt: skip
"""Modules with functions that only return something, so that a call matters only if it is read."""
PURE_FUNCTIONS = frozenset({"operator.attrgetter", "operator.itemgetter", "operator.methodcaller"})
CALLING = frozenset({"filter", "map", "max", "min", "reduce", "sorted"})
"""Functions of these modules and builtins that call what they get."""
PURE_METHODS = frozenset({
    "copy", "difference", "encode", "format", "fromkeys", "get", "getLogger", "intersection",
    "items", "join", "keys", "lower", "replace", "split", "splitlines", "strip", "union", "upper",
    "values",
})  # fmt: skip
PURE_BUILTINS = frozenset({
    "abs", "bool", "bytes", "chr", "classmethod", "dict", "enumerate", "filter", "float",
    "frozenset", "int", "isinstance", "len", "list", "map", "max", "min", "object", "ord",
    "property", "range", "reversed", "round", "set", "slice", "sorted", "staticmethod", "str",
    "sum", "tuple", "zip",
})  # fmt: skip

IMPORT_MODULE = "importlib:import_module"
_RETURNING = (ast.Return, ast.Import, ast.ImportFrom, ast.Pass)
OUTSIDE = frozenset({"finery.observes", "finery.outside_key"})
"""Decorators of definitions that stay out of keys."""
NAMESPACES = frozenset({"__getattribute__", "__globals__", "f_globals"})
"""Attributes that read definitions in ways that can't be followed."""
UNFOLLOWED = frozenset({"eval", "exec", "globals"})
"""Builtins that read definitions in ways that can't be followed."""


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
        for alias, target in _bound_by_import(statement)
        if alias not in (EXECUTES, STAR)
    }
    return _Module(counted(tree)).parsed(typing)


class _Module:
    """Collects the units and pieces of a module."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.pieces: list[Piece] = []
        self.units: dict[str, Unit] = {}
        self.imports: dict[str, None] = {}
        self.on_import: dict[str, None] = {}
        self._sources = {a: t for node in tree.body for a, t in _bound_by_import(node)}
        self._own = {*_bound(tree.body)}

    def parsed(self, typing: Mapping[str, str]) -> Parsed:
        for node in self.tree.body:
            self._add(node)
        if STAR not in (*self.units, *self.on_import):  # no other name is that of a definition
            bound = {*self.units, *self.on_import, *typing, *UNFOLLOWED}
            self.pieces = [_without_others(piece, bound) for piece in self.pieces]
        return Parsed(self.units, self.pieces, [*self.imports], [*self.on_import], dict(typing))

    def _add(self, node: ast.stmt) -> None:
        match node:
            case ast.Pass():
                pass
            case ast.Import() | ast.ImportFrom():
                for alias, target in _bound_by_import(node):
                    self.imports[target] = None
                    # also of `a`, which `import a.b` binds
                    name = target.partition(".")[0] if alias == EXECUTES else alias
                    piece = Piece(name, _digest(f"{alias} {target}"), [], [(alias, target)])
                    self._bind([name], [piece], kind="import")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                self._bind([name], [self._piece(name, node)], acts=self._function_acts(node))
            case ast.ClassDef(name=name):
                self._class(node)
            case ast.Assign() | ast.AnnAssign() if names := _plain_names(node):
                piece = self._piece(names[0], node)
                self._bind(names, [piece], acts=node.value is not None and self._acts(node.value))
            case _:
                piece = self._piece(ON_IMPORT, node)
                self._bind([ON_IMPORT], [piece])
                self.imports.update((target, None) for _, target in piece.imports)
                self.on_import |= dict.fromkeys(_bound([node]))
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
        bases = [_chain(b.value if isinstance(b, ast.Subscript) else b) for b in node.bases]
        makers = [k.value for k in node.keywords if k.arg in ("metaclass", None)]
        registers = not all(self._is_pure(_chain(maker)) for maker in makers)
        registers |= any(map(self._registers, walk(node.body)))
        acts = (
            registers
            or None in bases
            or any(self._decorator_acts(d) for d in node.decorator_list)
            or any(self._acts(keyword.value) for keyword in node.keywords)
            or any(self._body_acts(statement) for statement in node.body)
        )
        self._bind(
            [node.name], [*self._class_pieces(node)], kind="class", acts=acts,
            bases=[base for base in bases if base is not None], registers=registers,
        )  # fmt: skip

    def _registers(self, node: ast.AST) -> bool:
        """Whether a node in a class can have an effect when a subclass is created."""
        match node:
            case ast.FunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                return name == "__init_subclass__"
            case ast.ClassDef(keywords=keywords):
                makers = [k.value for k in keywords if k.arg in ("metaclass", None)]
                return not all(self._is_pure(_chain(maker)) for maker in makers)
        return False

    # -- whether a statement can have an effect when it is executed --------------------------------

    def _body_acts(self, node: ast.stmt) -> bool:
        """Of a statement in the body of a class."""
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                return self._function_acts(node)
            case ast.Assign() | ast.AnnAssign() if _plain_names(node):
                return node.value is not None and self._acts(node.value)
            case ast.AnnAssign(value=None) | ast.Pass() | ast.Expr(value=ast.Constant()):
                return False
        return True

    def _function_acts(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        if node.name == "finery_steps" and not all(isinstance(n, _RETURNING) for n in node.body):
            return True  # the hook may change what a step reads
        decorated = any(map(self._decorator_acts, node.decorator_list))
        return decorated or self._acts(*_defaults(node.args))

    def _decorator_acts(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Call):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            return self._decorator_acts(node.func) or self._acts(*given)
        name = _chain(node)
        plain = name is not None and name.rpartition(".")[2] in PLAIN_DECORATORS
        return not (plain or self._is_pure(name))

    def _acts(self, *nodes: ast.expr) -> bool:
        """Whether expressions can do more than return a value."""
        for node in walk(nodes, without=(ast.Lambda,)):
            match node:
                case ast.Call(func=ast.Attribute(attr=method)) if method in PURE_METHODS:
                    pass
                case ast.Call(func=function) if not self._is_pure(_chain(function)):
                    return True
                case ast.Call(func=function, args=args, keywords=keywords) if (
                    _chain(function) or ""
                ).rpartition(".")[2] in CALLING:
                    called = [k.value for k in keywords if k.arg == "key"]
                    called += args[:1] if _chain(function) not in ("max", "min", "sorted") else []
                    if not all(self._calls_pure(each) for each in called):
                        return True
                case ast.BinOp(op=ast.LShift() | ast.RShift(), left=left):  # `first >> second`
                    if not isinstance(left, ast.Constant):
                        return True
                case ast.Await() | ast.NamedExpr():
                    return True
        return False

    def _calls_pure(self, node: ast.expr) -> bool:
        """Whether calling this argument, if it is a function, has no side effects."""
        match node:
            case ast.Lambda(body=body):
                return not self._acts(body)
            case ast.Name(id=name):
                return self._is_pure(name) or name not in (*self._own, *self._sources)
            case ast.Attribute():
                return self._is_pure(_chain(node)) or node.attr in PURE_METHODS
        return True

    def _is_pure(self, name: str | None) -> bool:
        """Whether calling the function of this name has no side effects."""
        if name is None:
            return False
        root, *rest = name.split(".")
        if root not in self._sources:
            return not rest and root in PURE_BUILTINS and root not in self._own
        module = self._sources[root].replace(":", ".")
        pure = module.split(".")[0] in PURE_MODULES
        pure |= ".".join([module, *rest]) in PURE_FUNCTIONS
        return pure and not module.startswith("finery.rows")

    def _piece(self, name: str, node: ast.AST, *, outside: bool = False) -> Piece:
        reader = _Reader(self._sources)
        reader.visit(node)
        outside |= any(map(self._is_outside, getattr(node, "decorator_list", ())))
        digest = _digest(ast.dump(node))
        return Piece(name, digest, [*reader.reads], [*reader.imports], outside)

    def _is_outside(self, decorator: ast.expr) -> bool:
        """Whether a decorator is `finery.outside_key`."""
        root, _, rest = (_chain(decorator) or "").partition(".")
        source = self._sources.get(root, "").replace(":", ".")
        return f"{source}.{rest}".rstrip(".") in OUTSIDE

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
    bound = bound.union(alias for alias, _ in piece.imports) if piece.imports else bound
    reads = [
        name
        for name in piece.reads
        if name.partition(".")[0] in bound or name.startswith(CALLED) or "__subclasses__" in name
    ]
    return Piece(piece.name, piece.digest, reads, piece.imports, piece.outside)


def _digest(code: str) -> str:
    return blake3(code.encode()).hexdigest()[:DIGITS]


# -- names that code reads -------------------------------------------------------------------------


class _Reader:
    """Collects the names that code reads and that aren't local to it, and its imports."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        """sources: name → what the module imports it from."""
        self._sources = sources
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

    def _read(self, name: str) -> None:
        root = name.partition(".")[0]
        if not any(root in names for names in self._local):
            self.reads[name] = None

    def visit_Name(self, node: ast.Name) -> None:
        self._read(node.id)  # also where it is bound: `global x; x = 1`

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = _chain(node)
        if node.attr in NAMESPACES:
            self.reads["globals"] = None
        if node.attr in OUTSIDE_KEYS and (
            name in (f"self.{node.attr}", f"cls.{node.attr}")
            or (isinstance(node.value, ast.Call) and _chain(node.value.func) in ("super", "type"))
        ):
            self.reads[f"{CALLED}{node.attr}"] = None
        if name is None:
            self.generic_visit(node)
        else:
            self._read(name)

    def visit_Expr(self, node: ast.Expr) -> None:
        before = [*self.reads]
        self.visit(node.value)
        match node.value:
            case ast.Call(func=ast.Attribute(attr=name)) if f"{CALLED}{name}" not in before:
                self.reads.pop(f"{CALLED}{name}", None)  # `self.check()` only refuses

    def visit_Global(self, node: ast.Global) -> None:
        self.reads |= dict.fromkeys(node.names)  # also where a function around has the name

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imports |= dict.fromkeys(_bound_by_import(node))

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
        match node:
            case ast.Call(func=ast.Name(id="vars" | "locals" | "dir"), args=[], keywords=[]):
                if not self._local:
                    self.reads["globals"] = None
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for each in (*node.decorator_list, *_defaults(node.args)):
            self.visit(each)
        for argument in arguments_of(node.args):
            self._annotation(argument.annotation)
        self._annotation(node.returns)
        self._inside(_names_of(node), node.body)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for each in _defaults(node.args):
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
        names = frozenset(_bound([each.target for each in generators]))
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
        names.update(_bound(function.body, outer))
        names -= outer
    return frozenset(names)


def _bound(nodes: Iterable[ast.AST], outer: set[str] | None = None) -> Iterator[str]:
    """The names that statements bind in their own scope, without imported ones.

    outer: gets the names that they declare as global or import.
    """
    for node in walk(nodes, without=(*SCOPES, *COMPREHENSIONS)):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name
            case ast.ExceptHandler(name=str(name)):
                yield name
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name
            case ast.Global(names=names) if outer is not None:
                outer.update(names)
            case ast.Import() | ast.ImportFrom() if outer is not None:
                outer.update(alias for alias, _ in _bound_by_import(node))


def _chain(node: ast.AST | None) -> str | None:
    """`a.b.c` as text; None for any other expression."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else None


def _plain_names(node: ast.Assign | ast.AnnAssign) -> list[str]:
    """The names that an assignment binds; none if it has another effect."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    parts = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
    names = [part.id for part in parts if isinstance(part, ast.Name)]
    return names if len(names) == len(parts) else []


def _defaults(arguments: ast.arguments) -> list[ast.expr]:
    return [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]


# -- imports -----------------------------------------------------------------------------------


def _bound_by_import(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(alias, target) of each name that an import statement binds; see `Piece.imports`."""
    match node:
        case ast.Import(names=names):
            for alias in names:
                top, _, inner = alias.name.partition(".")
                yield (alias.asname, alias.name) if alias.asname else (top, top)
                if inner and not alias.asname:
                    yield EXECUTES, alias.name
        case ast.ImportFrom(module=module, names=names, level=level):
            base = "." * level + (module or "")
            for alias in names:
                yield alias.asname or alias.name, f"{base}:{alias.name}"


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
