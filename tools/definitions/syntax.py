"""What the names in a syntax tree are bound to, and a text of a tree that all Pythons agree on."""

import ast
import builtins
from collections.abc import Iterable, Iterator

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTION_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SCOPES = (*FUNCTION_SCOPES, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


class Bindings:
    """The bindings of names, in whichever of some nodes they are: scopes aren't told apart."""

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        self._imported: dict[str, set[str]] = {}
        self._others: set[str] = set()
        for node in nodes:
            for alias, target in imports_of(node):
                self._imported.setdefault(alias, set()).add(target.replace(":", "."))
            self._others.update(names_bound_by(node))
            match node:
                case ast.Global(names=names):
                    self._others.update(names)
                case ast.arg(arg=name):
                    self._others.add(name)

    def sources(self, name: str | None) -> set[str]:
        """The full names that a name may stand for, e.g. `functools.cache` or `builtins.len`.

        name: also with attributes, `a.b`. Empty if something else than imports may bind it.
        """
        root, dot, rest = (name or "").partition(".")
        if root in self._others:
            return set()
        if root in self._imported:
            return {f"{source}{dot}{rest}" for source in self._imported[root]}
        return {f"builtins.{name}"} if hasattr(builtins, root) else set()


def walk(nodes: Iterable[ast.AST], without: tuple[type[ast.AST], ...] = ()) -> Iterator[ast.AST]:
    """All nodes, but nothing inside nodes of the types `without`."""
    pending = [*nodes]
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, without):
            pending += ast.iter_child_nodes(node)


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


def imports_of(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(alias, target) of each name that an import binds. A target is `module` or `module:name`."""
    match node:
        case ast.Import(names=names):
            for alias in names:
                top = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        case ast.ImportFrom(module=str(module), names=names):
            for alias in names:
                yield alias.asname or alias.name, f"{module}:{alias.name}"


def locals_of(function: ast.AST) -> set[str]:
    """The local names of a function or a lambda, without those that it imports."""
    arguments: ast.arguments = function.args  # type: ignore[attr-defined]
    names = {argument.arg for argument in arguments_of(arguments)}
    if isinstance(function, FUNCTIONS):
        outer: set[str] = set()
        for node in walk(function.body, without=(*SCOPES, *COMPREHENSIONS)):
            names.update(names_bound_by(node))
            outer.update(alias for alias, _ in imports_of(node))
            outer.update(node.names if isinstance(node, ast.Global) else ())
        names -= outer
    return names


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


def text_of(node: ast.AST | None) -> str:
    """The text of a constant; empty for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def dump(value: object) -> str:
    """A tree as text. `ast.dump` writes another one in each minor version of Python."""
    match value:
        case ast.Constant():
            return f"Constant({value.value!r})"  # unlike None in a list, which is nothing
        case ast.AST():
            fields = ((name, getattr(value, name, None)) for name in value._fields)
            counted = [
                f"{name}={dump(each)}"
                for name, each in fields
                if each not in (None, []) and name not in ("ctx", "type_comment")
            ]
            return f"{type(value).__name__}({', '.join(counted)})"
        case list():
            return f"[{', '.join(map(dump, value))}]"
    return repr(value)
