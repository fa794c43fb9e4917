"""The parts of a syntax tree that can change an output.

Docstrings, annotations of functions and variables, blocks under `if TYPE_CHECKING:`, the help of
settings and inputs, and the text of raised finery errors and of logged lines are removed.
Annotations in a class body stay, since they define the fields of steps, dataclasses and structs.
The text of other exceptions stays, since code that catches one may write it into an output.
"""

import ast
import builtins
from typing import Any, TypeVar

from tools.definitions.syntax import Bindings, arguments_of, chain, text_of

N = TypeVar("N", bound=ast.AST)
F = TypeVar("F", ast.FunctionDef, ast.AsyncFunctionDef)

PLAIN_DECORATORS = frozenset({
    "abc.abstractmethod", "builtins.classmethod", "builtins.property", "builtins.staticmethod",
    "contextlib.asynccontextmanager", "contextlib.contextmanager", "finery.hookimpl",
    "finery.outside_key", "functools.cache", "functools.cached_property", "functools.lru_cache",
    "functools.wraps", "typing.overload", "typing.override",
})  # fmt: skip
"""Decorators that read neither the annotations of a function nor its docstring."""
DECLARING = frozenset({"finery.nested_step", "finery.setting", "finery.takes"})
"""Functions that declare fields of steps and groups of settings."""
DESCRIBING = frozenset({"examples", "help"})
"""Keywords of these that only describe the field to users and editors."""
ERRORS = frozenset(
    f"{module}.{name}"
    for module in ("finery", "finery.advanced", "finery.errors")
    for name in (
        "DataError", "FineryError", "PluginError", "RecipeError", "RequirementError", "StepError",
        "UsageError",
    )
)  # fmt: skip
"""Errors that end a step. Their text is for users."""
EXCEPTIONS = frozenset(
    f"builtins.{name}"
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
)
JOBS = frozenset({"job", "_job"})
"""Names of variables and attributes that hold a `Job`, and nothing else (see `refused`)."""
TELLING = frozenset({"log", "progress"})
"""Methods of a job that only show text."""
TEXTS = frozenset({
    "detail", "details", "fix", "hint", "message", "msg", "reason", "text", "what", "where",
})  # fmt: skip
"""Keywords that pass text to an error or a log line. Other keywords pass values."""


class Counted(ast.NodeTransformer):
    """Removes what can't change an output. names: what is bound where the visited node is.

    in_functions: the same inside of functions.
    """

    def __init__(self, names: Bindings, in_functions: Bindings) -> None:
        self._names = names
        self._in_functions = in_functions
        self._in_class = False

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        return self._inside(node, in_class=True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AsyncFunctionDef:
        return self._function(node)

    def _function(self, node: F) -> F:
        plain = all(is_plain(decorator, self._names) for decorator in node.decorator_list)
        if plain:
            node.returns = None
            for argument in arguments_of(node.args):
                argument.annotation = None
        docstring = node.body[0] if not plain and ast.get_docstring(node) is not None else None
        outer, self._names = self._names, self._in_functions
        node = self._inside(node, in_class=False)
        self._names = outer
        if docstring is not None:  # since the decorator may read it
            node.body.insert(0, docstring)
        return node

    def _inside(self, node: N, *, in_class: bool) -> N:
        outer, self._in_class = self._in_class, in_class
        self.generic_visit(node)
        self._in_class = outer
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None  # a docstring, also of an attribute
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        self.generic_visit(node)
        if self._in_class:
            return node
        if node.value is not None:
            plain = ast.Assign(targets=[node.target], value=node.value)
            return ast.copy_location(plain, node)
        node.annotation = ast.Constant(None)  # since it makes the name local to its function
        return node

    def visit_If(self, node: ast.If) -> Any:
        if self._names.sources(chain(node.test)) == {"typing.TYPE_CHECKING"}:
            return [self.visit(statement) for statement in node.orelse]
        self.generic_visit(node)
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        self.generic_visit(node)
        if isinstance(node.exc, ast.Call) and is_one(node.exc.func, ERRORS, self._names):
            wordless = _Wordless(self._names)
            wordless.generic_visit(node.exc)
            node.cause = node.cause and wordless.visit(node.cause)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if is_one(node.func, DECLARING, self._names):
            node.keywords = [k for k in node.keywords if k.arg not in DESCRIBING]
        match node.func:
            case ast.Attribute(attr=method, value=ast.Name(id=owner) | ast.Attribute(attr=owner)):
                if method in TELLING and owner in JOBS:
                    _Wordless(self._names).generic_visit(node)
        return node


class _Wordless(ast.NodeTransformer):
    """Removes text from an error or a logging call, except strings that have an effect."""

    def __init__(self, names: Bindings) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> ast.Call:
        match node.func:
            case ast.Attribute(value=ast.JoinedStr() | ast.Constant(value=str())):
                self.generic_visit(node)
            case function if is_one(function, ERRORS | EXCEPTIONS, self._names):
                self.generic_visit(node)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if text_of(node) else node

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


def is_plain(decorator: ast.expr, names: Bindings) -> bool:
    """Whether a decorator is one of `PLAIN_DECORATORS`, or changes a property."""
    function = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(function, ast.Attribute) and function.attr in ("getter", "setter"):
        return True
    return is_one(function, PLAIN_DECORATORS, names)


def is_one(function: ast.expr, of: frozenset[str], names: Bindings) -> bool:
    """Whether a function is one of those with these full names."""
    sources = names.sources(chain(function))
    return bool(sources) and sources <= of
