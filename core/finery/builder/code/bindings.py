"""What the names in a file are bound to."""

import ast
import builtins
from collections.abc import Iterable, Iterator

from finery.builder.code.units import EXECUTES, STAR

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SCOPES = (*FUNCTION_SCOPES, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

BINDING = frozenset({
    ast.AnnAssign, ast.Assign, ast.AsyncFunctionDef, ast.ClassDef, ast.ExceptHandler,
    ast.FunctionDef, ast.Global, ast.Import, ast.ImportFrom, ast.MatchAs, ast.MatchMapping,
    ast.MatchStar, ast.Name, ast.arg,
})  # fmt: skip


class Bindings:
    """The bindings of names, in whichever of some nodes they are: scopes aren't told apart."""

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        self._imported: dict[str, set[str]] = {}
        self._bound: dict[str, int] = {}  # how often, except by imports
        self._values: dict[str, list[ast.AST]] = {}
        for node in nodes:
            if node.__class__ not in BINDING:
                continue
            match node:
                case ast.Name(ctx=ast.Load()):
                    continue
                case ast.Import() | ast.ImportFrom():
                    for alias, target in bound_by_import(node):
                        if alias != EXECUTES:
                            full = target.replace(":", ".")
                            self._imported.setdefault(alias, set()).add(full)
                case ast.Assign(targets=targets, value=value):
                    for each in targets:
                        if isinstance(each, ast.Name):
                            self._values.setdefault(each.id, []).append(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    self._values.setdefault(name, []).append(value)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    self._values.setdefault(node.name, []).append(node)
                case ast.Global(names=names):
                    self._bound |= dict.fromkeys(names, 2)
                case ast.arg(arg=name):
                    self._bound[name] = self._bound.get(name, 0) + 1
            for name in names_bound_by(node):
                self._bound[name] = self._bound.get(name, 0) + 1

    def sources(self, name: str | None) -> frozenset[str]:
        """The full names that a name may stand for, e.g. `functools.cache` or `builtins.len`.

        name: also with attributes, `a.b`. Empty if something else than imports may bind it.
        """
        root, dot, rest = (name or "").partition(".")
        if not root or root in self._bound or STAR in self._imported:
            return frozenset()
        if root in self._imported:
            return frozenset(f"{source}{dot}{rest}" for source in self._imported[root])
        is_builtin = hasattr(builtins, root) or root == "__file__"
        return frozenset([f"builtins.{name}"] if is_builtin else ())

    def values(self, name: str) -> list[ast.AST]:
        """The definitions and assigned values of a name; none if it may be bound in other ways."""
        values = self._values.get(name, [])
        is_complete = len(values) == self._bound.get(name) and name not in self._imported
        return values if is_complete and STAR not in self._imported else []


def walk(nodes: Iterable[ast.AST], without: tuple[type[ast.AST], ...] = ()) -> Iterator[ast.AST]:
    """All nodes, but nothing inside nodes of the types `without`."""
    pending = [*nodes]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, without):
            pending += children(node)


def children(node: ast.AST) -> list[ast.AST]:
    """`ast.iter_child_nodes`, faster and without contexts such as `Load`."""
    found: list[ast.AST] = []
    for field in node._fields:
        value = getattr(node, field, None)
        if isinstance(value, ast.AST):
            if field != "ctx":
                found.append(value)
        elif value.__class__ is list:
            found += [each for each in value if isinstance(each, ast.AST)]
    return found


def names_bound_by(node: ast.AST) -> Iterator[str]:
    """The names that one node binds, but for imports and arguments."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.ExceptHandler(name=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name


def bound(nodes: Iterable[ast.AST], outer: set[str] | None = None) -> Iterator[str]:
    """The names that statements bind in their own scope, without imported ones.

    outer: gets the names that they declare as global or import.
    """
    for node in walk(nodes, without=(*SCOPES, *COMPREHENSIONS)):
        yield from names_bound_by(node)
        match node:
            case ast.Global(names=names) if outer is not None:
                outer.update(names)
            case ast.Import() | ast.ImportFrom() if outer is not None:
                outer.update(alias for alias, _ in bound_by_import(node))


def bound_by_import(node: ast.AST) -> Iterator[tuple[str, str]]:
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


def arguments_of(arguments: ast.arguments) -> list[ast.arg]:
    rest = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *rest]


def defaults(arguments: ast.arguments) -> list[ast.expr]:
    return [*arguments.defaults, *(d for d in arguments.kw_defaults if d is not None)]


def chain(node: ast.AST | None) -> str | None:
    """`a.b.c` as text; None for any other expression."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else None
