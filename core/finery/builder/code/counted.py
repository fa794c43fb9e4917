"""The parts of a syntax tree that can change an output.

Docstrings, annotations of functions and variables, blocks under `if TYPE_CHECKING:`, the help of
settings and inputs, and the text of raised finery errors and of logged lines are removed.
Annotations in a class body stay, since they define the fields of steps, dataclasses and structs.
The text of other exceptions stays, since code that catches one may write it into an output.
"""

import ast
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard, TypeVar

N = TypeVar("N", bound=ast.AST)
F = TypeVar("F", ast.FunctionDef, ast.AsyncFunctionDef)

INSPECTING = frozenset({
    "__annotations__", "__doc__", "__finery_fields__", "get_annotations", "get_json_schema",
    "get_type_hints", "getdoc", "getfullargspec", "signature",
})  # fmt: skip
"""Names that read annotations, docstrings or help. In a file that uses one, all three count."""
DECLARING = frozenset({"nested_step", "setting", "takes"})
"""Functions that declare fields of steps and groups of settings."""
DESCRIBING = frozenset({"examples", "help"})
"""Keywords of these that only describe the field to users and editors."""
PLAIN_DECORATORS = frozenset({
    "abstractmethod", "asynccontextmanager", "cache", "cached_property", "classmethod",
    "contextmanager", "deleter", "final", "getter", "hookimpl", "lru_cache", "observes",
    "outside_key", "overload", "override", "property", "setter", "staticmethod", "wraps",
})  # fmt: skip
"""Decorators that don't read annotations. With any other decorator, annotations count."""
ERRORS = frozenset({
    "DataError", "FineryError", "PluginError", "RecipeError", "RequirementError", "StepError",
    "UsageError",
})  # fmt: skip
"""Errors that end a step. Their text is for users."""
JOBS = frozenset({"job", "_job"})
"""Names of variables and attributes that hold a `Job`."""
TELLING = frozenset({"log", "progress"})
"""Methods of a job that only show text."""
TEXTS = frozenset({
    "detail", "details", "fix", "hint", "message", "msg", "reason", "text", "what", "where",
})  # fmt: skip
"""Keywords that pass text to an error or a log line. Other keywords pass values."""


def counted(tree: ast.Module) -> ast.Module:
    """The tree without the parts that can't change an output. Modifies `tree`."""
    names = {_last_name(node) for node in walk([tree])}
    keeps_all = not INSPECTING.isdisjoint(names)
    return _Counted(keeps_all=keeps_all, typing=_typing(tree)).visit_Module(tree)


class _Counted(ast.NodeTransformer):
    """keeps_all: keep annotations and docstrings. typing: the file's name for `TYPE_CHECKING`."""

    def __init__(self, *, keeps_all: bool, typing: str) -> None:
        self._keeps_all = keeps_all
        self._typing = typing
        self._in_class = False

    def visit_Module(self, node: ast.Module) -> ast.Module:
        return self._inside(node, in_class=False)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return self._inside(node, in_class=True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        return self._function(node)

    def _function(self, node: F) -> F:
        is_plain = all(map(_is_plain, node.decorator_list))
        if not self._keeps_all and is_plain:
            node.returns = None
            for argument in arguments_of(node.args):
                argument.annotation = None
        docstring = node.body[0] if not is_plain and ast.get_docstring(node) is not None else None
        node = self._inside(node, in_class=False)
        if docstring is not None and docstring not in node.body:  # since the decorator may read it
            node.body.insert(0, docstring)
        return node

    def _inside(self, node: N, *, in_class: bool) -> N:
        outer, self._in_class = self._in_class, in_class
        self.generic_visit(node)
        self._in_class = outer
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        if not self._keeps_all and _is_text(node.value):
            return None  # a docstring, also of an attribute
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        self.generic_visit(node)
        if self._in_class or self._keeps_all:
            return node
        if node.value is not None:
            return ast.Assign(targets=[node.target], value=node.value)
        node.annotation = ast.Constant(None)  # since it makes the name local to its function
        return node

    def visit_If(self, node: ast.If) -> Any:
        if self._typing and ast.unparse(node.test) == self._typing:
            return [self.visit(statement) for statement in node.orelse]
        self.generic_visit(node)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        self.generic_visit(node)
        if isinstance(node.exc, ast.Call) and _last_name(node.exc.func) in ERRORS:
            node.exc = _wordless(node.exc)
            node.cause = node.cause and _wordless(node.cause)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if not self._keeps_all and _last_name(node.func) in DECLARING:
            node.keywords = [k for k in node.keywords if k.arg not in DESCRIBING]
        return _wordless(node) if _is_shown(node) else node


def _wordless(node: ast.expr) -> ast.expr:
    """An error or a logging call without its text. Values and calls in it stay."""
    take_out = _Wordless()
    wordless: Any = (
        take_out.generic_visit(node) if isinstance(node, ast.Call) else take_out.visit(node)
    )
    return wordless  # type: ignore[no-any-return]


class _Wordless(ast.NodeTransformer):
    """Removes text from an expression, except strings that have an effect."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        function = node.func
        is_method = isinstance(function, ast.Attribute) and _is_string(function.value)
        if is_method or _last_name(function)[:1].isupper():  # "…".format(…), or another error
            self.generic_visit(node)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if _is_text(node) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        values = [v for v in node.values if isinstance(v, ast.FormattedValue)]
        shown: list[ast.expr] = [
            ast.FormattedValue(self.visit(v.value), conversion=-1) for v in values
        ]
        return ast.JoinedStr(shown) if shown else ast.Constant("")

    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        if node.arg is None or node.arg in TEXTS:
            self.generic_visit(node)
        return node

    def _as_it_is(self, node: N) -> N:
        return node

    visit_Compare = visit_Subscript = visit_NamedExpr = visit_Lambda = _as_it_is


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


def arguments_of(arguments: ast.arguments) -> list[ast.arg]:
    rest = [a for a in (arguments.vararg, arguments.kwarg) if a is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *rest]


def _is_text(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _is_string(node: ast.AST) -> bool:
    return _is_text(node) or isinstance(node, ast.JoinedStr)


def _is_shown(node: ast.Call) -> bool:
    """Whether a call is `job.log(…)` or `….job.progress(…)`."""
    function = node.func
    if not isinstance(function, ast.Attribute) or function.attr not in TELLING:
        return False
    owner = function.value
    return isinstance(owner, ast.Name | ast.Attribute) and _last_name(owner) in JOBS


def _is_plain(decorator: ast.expr) -> bool:
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    return _last_name(function) in PLAIN_DECORATORS


def _last_name(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
            return name
    return ""


def _typing(tree: ast.Module) -> str:
    """The name of `typing.TYPE_CHECKING` in a file; empty if it isn't plainly imported."""
    imports = [(n, a) for n in tree.body if isinstance(n, _IMPORTS) for a in n.names]
    for node, alias in imports:
        if alias.asname is not None:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module, alias.name) == _CHECKING:
            return "" if _is_assigned(tree, alias.name) else alias.name
        if isinstance(node, ast.Import) and alias.name == _CHECKING[0]:
            return ".".join(_CHECKING)
    return ""


_IMPORTS = ast.Import | ast.ImportFrom
_CHECKING = ("typing", "TYPE_CHECKING")


def _is_assigned(tree: ast.AST, name: str) -> bool:
    names = (node for node in walk([tree]) if isinstance(node, ast.Name))
    return any(node.id == name and isinstance(node.ctx, ast.Store) for node in names)
