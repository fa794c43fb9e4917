"""The parts of a syntax tree that can change an output.

Docstrings, annotations of functions and variables, blocks under `if TYPE_CHECKING:`, the help of
settings and inputs, and the text of raised finery errors and of logged lines are removed.
Annotations in a class body stay, since they define the fields of steps, dataclasses and structs.
The text of other exceptions stays, since code that catches one may write it into an output.
"""

import ast
import builtins
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard, TypeVar

from finery.builder.code.bindings import (
    Bindings,
    arguments_of,
    bound_by_import,
    chain,
    names_bound_by,
    walk,
)
from finery.builder.code.effects import is_plain

N = TypeVar("N", bound=ast.AST)
F = TypeVar("F", ast.FunctionDef, ast.AsyncFunctionDef)

DECLARING = frozenset({"finery.nested_step", "finery.setting", "finery.takes"})
"""Functions that declare fields of steps and groups of settings."""
DESCRIBING = frozenset({"examples", "help"})
"""Keywords of these that only describe the field to users and editors."""
ERRORS = frozenset(
    f"{module}.{name}"
    for module in ("finery", "finery.errors")
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
"""Names of variables and attributes that hold a `Job`, if nothing in the file speaks against it."""
JOB_TYPES = frozenset({
    "finery.EngineJob", "finery.Job", "finery.inference.engine.EngineJob", "finery.step.job.Job",
})  # fmt: skip
QUIET = frozenset({
    "inspect.signature",
    *(f"builtins.{name}" for name in (
        "filter", "isinstance", "issubclass", "len", "map", "max", "min", "sorted",
    )),
})  # fmt: skip
"""Functions that only call or compare what they get, as those of `finery` and `msgspec` do."""
TELLING = frozenset({"log", "progress"})
"""Methods of a job that only show text."""
TEXTS = frozenset({
    "detail", "details", "fix", "hint", "message", "msg", "reason", "text", "what", "where",
})  # fmt: skip
"""Keywords that pass text to an error or a log line. Other keywords pass values."""


def counted(
    tree: ast.Module, nodes: list[ast.AST], outside: Bindings, anywhere: Bindings
) -> ast.Module:
    """The tree without the parts that can't change an output. Modifies `tree`.

    nodes: all of the tree. outside: what names are bound to outside of functions. anywhere: also in
    functions.
    """
    return _Counted(nodes, outside, anywhere).visit_Module(tree)


class _Counted(ast.NodeTransformer):
    """names: what names are bound to where the visited node is."""

    def __init__(self, nodes: Iterable[ast.AST], names: Bindings, in_functions: Bindings) -> None:
        self._names = names
        self._in_functions = in_functions
        self._has_jobs = _has_jobs(nodes, in_functions)
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
        plain = all(is_plain(decorator, self._names) for decorator in node.decorator_list)
        if plain:
            node.returns = None
            for argument in arguments_of(node.args):
                argument.annotation = None
        docstring = node.body[0] if not plain and ast.get_docstring(node) is not None else None
        outer, self._names = self._names, self._in_functions
        node = self._inside(node, in_class=False)
        self._names = outer
        if docstring is not None and docstring not in node.body:  # since the decorator may read it
            node.body.insert(0, docstring)
        return node

    def _inside(self, node: N, *, in_class: bool) -> N:
        outer, self._in_class = self._in_class, in_class
        self.generic_visit(node)
        self._in_class = outer
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        if _is_text(node.value):
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
        if isinstance(node.exc, ast.Call) and _is_one(node.exc.func, ERRORS, self._names):
            wordless = _Wordless(self._names)
            wordless.generic_visit(node.exc)
            node.cause = node.cause and wordless.visit(node.cause)
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if _is_one(node.func, DECLARING, self._names):
            node.keywords = [k for k in node.keywords if k.arg not in DESCRIBING]
        if self._has_jobs and _is_shown(node):
            _Wordless(self._names).generic_visit(node)
        return node


class _Wordless(ast.NodeTransformer):
    """Removes text from an error or a logging call, except strings that have an effect."""

    def __init__(self, names: Bindings) -> None:
        self._names = names

    def visit_Call(self, node: ast.Call) -> ast.Call:
        function = node.func
        is_method = isinstance(function, ast.Attribute) and _is_string(function.value)
        if is_method or _is_one(function, ERRORS | EXCEPTIONS, self._names):
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
    return (isinstance(owner, ast.Name) and owner.id in JOBS) or (
        isinstance(owner, ast.Attribute) and owner.attr in JOBS
    )


def _has_jobs(nodes: Iterable[ast.AST], names: Bindings) -> bool:
    """Whether all that a file calls `job` is annotated as a job of finery, or takes such a one."""
    jobs: set[int] = set()
    others: list[ast.AST] = []
    is_annotated = False
    for node in nodes:
        match node:
            case ast.Assign(targets=[target], value=value):
                pairs = [(target, value)]
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    pairs = [*zip(target.elts, value.elts, strict=False)]
                jobs.update(id(t) for t, v in pairs if (chain(v) or "").split(".")[-1] in JOBS)
            case ast.AnnAssign(target=target, annotation=hint) if _is_job(hint, names):
                jobs.add(id(target))
                is_annotated = True
            case ast.arg(arg=name, annotation=hint) if name in JOBS:
                if not _is_job(hint, names):
                    return False
                is_annotated = True
            case ast.Attribute(attr=name, ctx=ast.Store()) if name in JOBS:
                others.append(node)
            case ast.Import() | ast.ImportFrom():
                others += [node for alias, _ in bound_by_import(node) if alias in JOBS]
            case _:
                others += [node for name in names_bound_by(node) if name in JOBS]
    return is_annotated and all(id(node) in jobs for node in others)


def _is_job(hint: ast.expr | None, names: Bindings) -> bool:
    if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
        with contextlib.suppress(SyntaxError, ValueError):
            hint = ast.parse(hint.value, mode="eval").body
    return hint is not None and _is_one(hint, JOB_TYPES, names)


def _is_one(function: ast.expr, of: frozenset[str], names: Bindings) -> bool:
    """Whether a function is one of those with these full names."""
    sources = names.sources(chain(function))
    return bool(sources) and sources <= of


# -- texts that count if other code may read them --------------------------------------------------


def texts_in(node: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of a docstring or an annotation."""
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            yield node.lineno, text
        case (
            ast.arg(annotation=ast.expr() as hint)
            | ast.FunctionDef(returns=ast.expr() as hint)
            | ast.AsyncFunctionDef(returns=ast.expr() as hint)
        ):
            yield hint.lineno, ast.dump(hint)


def values_in(nodes: Iterable[ast.AST], names: Bindings) -> dict[int, str]:
    """Node → name or `.attribute` of each value that code may hand to code which reads docstrings.

    Not of what is only called, raised, caught, derived from, or given to functions in `QUIET`.
    """
    values: dict[int, str] = {}
    used: set[int] = set()
    for node in nodes:
        rest: list[ast.expr | ast.keyword | None] = []
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                values[id(node)] = name
            case ast.Attribute(attr=name, ctx=ast.Load()):
                values[id(node)] = f".{name}"
            case ast.Call(func=function, args=args, keywords=keywords):
                used.add(id(function))
                sources = names.sources(chain(function))
                if sources and all(s.startswith(("finery.", "msgspec.")) for s in sources - QUIET):
                    rest += [*args, *keywords]
            case ast.ClassDef(bases=bases, decorator_list=decorators):
                rest += [each for each in (*bases, *decorators) if not isinstance(each, ast.Call)]
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                rest += [d for d in node.decorator_list if not isinstance(d, ast.Call)]
                rest.append(node.returns)
            case ast.arg(annotation=hint) | ast.AnnAssign(annotation=hint):
                rest.append(hint)
            case ast.ExceptHandler(type=kind) | ast.Raise(exc=kind) | ast.MatchClass(cls=kind):
                rest.append(kind)
        direct = walk(filter(None, rest), without=(ast.Call, ast.List, ast.Dict))
        used.update(map(id, direct))
    return {node: name for node, name in values.items() if node not in used}
