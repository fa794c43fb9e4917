"""Takes a file of finery apart into its definitions, with the names that each of them reads."""

import ast
import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

from blake3 import blake3

from finery.step.inspect import OUTSIDE_KEYS
from tools.definitions.counted import JOBS, Counted, is_one
from tools.definitions.syntax import (
    FUNCTION_SCOPES,
    Bindings,
    arguments_of,
    chain,
    defaults,
    dump,
    imports_of,
    locals_of,
    text_of,
    walk,
)

MAIN = ""
"""Name of the unit of `if __name__ == "__main__":`."""
IMPORT = "import "
"""Start of the name of a piece that is an import."""
OUTSIDE = frozenset({"finery.outside_key"})
"""Decorators of definitions that stay out of keys."""
JOB_TYPES = frozenset({
    "finery.EngineJob", "finery.Job", "finery.inference.engine.EngineJob", "finery.step.job.Job",
})  # fmt: skip


class Use(NamedTuple):
    """Something that code does, and the line."""

    line: int
    name: str


class Piece(NamedTuple):
    """A statement of a module, or of the body of a class.

    name: `bounds`, `Split.run`, `import math`; `Split.(forecast)` for a keyword of a class.
    outside: whether it is marked `outside_key`. imports: (alias, target) of each import in it.
    reads: names that aren't local to it, with their attributes: `strata.bounds`. attributes: all
    attributes. methods: reads that may be of a step's method in `OUTSIDE_KEYS`. strings: short
    constants.
    """

    name: str
    line: int
    digest: str
    outside: bool
    imports: Sequence[tuple[str, str]]
    reads: Sequence[Use] = ()
    attributes: Sequence[Use] = ()
    methods: Sequence[str] = ()
    strings: Sequence[Use] = ()


class Unit(NamedTuple):
    """A definition of a module: a function, a class, a variable, or an imported name.

    kind: `class`, `import`, or `value`. bases: of a class.
    """

    pieces: list[Piece]
    kind: str
    bases: list[str]


class Module(NamedTuple):
    """One file.

    typing: names that are imported only for type checkers. calls: what it calls on import, with
    the decorators; empty names for what isn't a name. refused: statements that aren't definitions.
    """

    label: str
    units: dict[str, Unit]
    typing: set[str]
    calls: list[Use]
    refused: list[Use]


@cache
def parse(source: bytes, label: str) -> Module:
    """The definitions of a file."""
    tree = ast.parse(source, label)
    nodes = [*walk([tree])]
    names = Bindings(walk([tree], without=FUNCTION_SCOPES))
    refused = [*_untyped_jobs(nodes, Bindings(nodes))]
    typing = {
        alias
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for alias, _ in imports_of(statement)
    }
    tree = Counted(names, Bindings(nodes)).visit(tree)
    imported = [*walk((n for n in tree.body if not _is_main(n)), without=FUNCTION_SCOPES)]
    refused += [
        Use(node.lineno, "an assignment to a part of an object")
        for node in imported
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load)
    ]
    module = Module(label, {}, typing, [*_calls(imported)], refused)
    for node in tree.body:
        _add(node, module, names)
    return module


def _untyped_jobs(nodes: list[ast.AST], names: Bindings) -> Iterator[Use]:
    """Parameters that are called `job`, and aren't annotated as one: `job.log` must be a log."""
    for node in nodes:
        if isinstance(node, ast.arg) and node.arg in JOBS:
            hint: ast.AST | None = node.annotation
            if text := text_of(hint):
                hint = ast.parse(text, mode="eval").body
            if hint is None or not is_one(hint, JOB_TYPES, names):  # type: ignore[arg-type]
                yield Use(node.lineno, "a `job` that isn't annotated as `Job` or `EngineJob`")


def _calls(imported: list[ast.AST]) -> Iterator[Use]:
    """What a module calls when it is imported. imported: its nodes outside of functions."""
    inner: list[ast.expr] = []
    for node in imported:
        decorators: list[ast.expr] = getattr(node, "decorator_list", [])
        yield from (
            Use(d.lineno, chain(d) or "") for d in decorators if not isinstance(d, ast.Call)
        )
        if isinstance(node, FUNCTION_SCOPES):
            inner += [*decorators, *defaults(node.args)]
    for each in (*imported, *walk(inner, without=FUNCTION_SCOPES)):
        if isinstance(each, ast.Call):
            method = each.func.attr if isinstance(each.func, ast.Attribute) else ""
            yield Use(each.lineno, chain(each.func) or f".{method}")


def _add(node: ast.stmt, module: Module, names: Bindings) -> None:
    match node:
        case ast.Import() | ast.ImportFrom(level=0) if "*" not in dict(imports_of(node)):
            for alias, target in imports_of(node):
                name, digest = f"{IMPORT}{alias}", _digest(f"{alias} {target}")
                piece = Piece(name, node.lineno, digest, False, [(alias, target)])
                _bind(module, alias, [piece], "import")
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            _bind(module, name, [_piece(name, node, names)])
        case ast.ClassDef(name=name):
            bases = [chain(b.value if isinstance(b, ast.Subscript) else b) for b in node.bases]
            pieces = [*_pieces_of_class(node, names)]
            _bind(module, name, pieces, "class", [base for base in bases if base is not None])
        case ast.Assign(targets=targets):
            bound = [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
            for name in bound:
                _bind(module, name, [_piece(bound[0], node, names)])
        case ast.If() if _is_main(node):
            _bind(module, MAIN, [_piece(MAIN, node, names)])
        case ast.Pass():
            pass
        case _:
            module.refused.append(Use(node.lineno, "a statement that isn't a definition"))


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def _bind(
    module: Module, name: str, pieces: list[Piece], kind: str = "value", bases: Iterable[str] = ()
) -> None:
    unit = module.units.setdefault(name, Unit([], kind, []))
    unit.pieces.extend(pieces)
    unit.bases.extend(bases)


def _pieces_of_class(
    node: ast.ClassDef, names: Bindings, within: str = "", *, outside: bool = False
) -> Iterator[Piece]:
    """The head of a class, its keywords, fields and methods; of a class in it, too."""
    name = f"{within}{node.name}"
    outside |= any(is_one(decorator, OUTSIDE, names) for decorator in node.decorator_list)
    head = copy.copy(node)
    head.keywords, head.body = [], []
    yield _piece(name, head, names, outside=outside)
    for keyword in node.keywords:
        yield _piece(f"{name}.({keyword.arg or '**'})", keyword, names, outside=outside)
    for statement in node.body:
        match statement:
            case ast.ClassDef():
                yield from _pieces_of_class(statement, names, f"{name}.", outside=outside)
            case (
                ast.FunctionDef(name=inner)
                | ast.AsyncFunctionDef(name=inner)
                | ast.Assign(targets=[ast.Name(id=inner)])
                | ast.AnnAssign(target=ast.Name(id=inner))
            ):
                yield _piece(f"{name}.{inner}", statement, names, outside=outside)
            case _:
                yield _piece(name, statement, names, outside=outside)


def _piece(
    name: str, node: ast.stmt | ast.keyword, names: Bindings, *, outside: bool = False
) -> Piece:
    reader = _Reader()
    reader.visit(node)
    outside |= any(is_one(each, OUTSIDE, names) for each in getattr(node, "decorator_list", ()))
    return Piece(
        name, node.lineno, _digest(dump(node)), outside, [*dict.fromkeys(reader.imports)],
        [Use(line, read) for read, line in reader.reads.items()],
        reader.attributes, [*dict.fromkeys(reader.methods)], reader.strings,
    )  # fmt: skip


def _digest(code: str) -> str:
    return blake3(code.encode()).hexdigest()


class _Reader(ast.NodeVisitor):
    """Collects what code reads; see `Piece`."""

    def __init__(self) -> None:
        self.reads: dict[str, int] = {}
        self.imports: list[tuple[str, str]] = []
        self.attributes: list[Use] = []
        self.methods: list[str] = []
        self.strings: list[Use] = []
        self._local: list[set[str]] = []  # of the functions around

    def _read(self, name: str, line: int) -> None:
        if not self._is_local(name):
            self.reads.setdefault(name, line)

    def _is_local(self, name: str) -> bool:
        root = name.partition(".")[0]
        return any(root in names for names in self._local)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._read(node.id, node.lineno)

    def visit_Global(self, node: ast.Global) -> None:
        self.reads |= dict.fromkeys(node.names, node.lineno)

    def visit_Constant(self, node: ast.Constant) -> None:
        if (text := text_of(node)) and len(text) < 100:
            self.strings.append(Use(node.lineno, text))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.attributes.append(Use(node.lineno, node.attr))
        name = chain(node)
        parts = [node.attr] if name is None else name.split(".")
        owned = [*parts]
        while len(owned) > 1 and owned[-1].startswith("__"):  # `step.check.__call__`
            owned.pop()
        if owned[-1] in OUTSIDE_KEYS and not JOBS.intersection(owned[-2:-1]):  # `job.provenance`
            is_object = name is None or self._is_local(name)
            self.methods.append(owned[-1] if is_object else ".".join(owned))
        if name is None:
            self.visit(node.value)
            return
        self._read(name, node.lineno)
        self.attributes += [Use(node.lineno, part) for part in parts[1:-1]]

    def visit_Call(self, node: ast.Call) -> None:
        first = text_of(node.args[0]) if node.args else ""
        self.methods += [t for given in node.args if (t := text_of(given)) in OUTSIDE_KEYS]
        if chain(node.func) in ("getattr", "setattr", "hasattr") and len(node.args) > 1:
            self.attributes.append(Use(node.lineno, text_of(node.args[1])))
        is_library = bool(first) and first.partition(".")[0].partition("_")[0] != "finery"
        if (chain(node.func) or "").endswith("import_module") and is_library:
            return
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imports += imports_of(node)

    visit_ImportFrom = visit_Import

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._function(node, node.body)
        for each in node.decorator_list:
            self.visit(each)
        self._annotation(node.returns)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node, [node.body])

    def _function(self, node: ast.AST, body: list[ast.stmt] | list[ast.expr]) -> None:
        arguments: ast.arguments = node.args  # type: ignore[attr-defined]
        for default in defaults(arguments):
            self.visit(default)
        for argument in arguments_of(arguments):
            self._annotation(argument.annotation)
        self._inside(locals_of(node), body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._annotation(node.annotation)
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_ListComp(self, node: ast.AST) -> None:
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        self.visit(generators[0].iter)
        bound = {n.id for g in generators for n in walk([g.target]) if isinstance(n, ast.Name)}
        self._inside(bound, [*ast.iter_child_nodes(node)])

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def _inside(
        self, names: set[str], nodes: list[ast.stmt] | list[ast.expr] | list[ast.AST]
    ) -> None:
        self._local.append(names)
        for node in nodes:
            self.visit(node)
        self._local.pop()

    def _annotation(self, node: ast.expr | None) -> None:
        """Read an annotation that counts; one in quotes, too."""
        if node is None:
            return
        for each in ast.walk(node):
            if text := text_of(each):
                try:
                    self.visit(ast.parse(text, mode="eval"))
                except (SyntaxError, ValueError):  # a text, e.g. in `Annotated`
                    continue
        self.visit(node)
