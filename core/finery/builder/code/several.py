"""Files with several step types: those that can't matter to another one don't count for it.

Otherwise, an edit of one step type would rerun the steps of all others in its file. A worker
doesn't define what doesn't count (`source_without`), so nothing can depend on it. The conditions
here only see to it that the file works without it.
"""

import ast
from collections.abc import Iterator, Mapping

from finery.plugin.cut import TABLE
from finery.util.installed import is_finery_module

DYNAMIC_NAMES = frozenset({
    "__annotations__", "__bases__", "__builtins__", "__dict__", "__getattribute__", "__globals__",
    "__import__", "__mro__", "__subclasses__", "_getframe", "attrgetter", "builtins",
    "cloudpickle", "currentframe", "dill", "dir", "f_back", "f_builtins",
    "f_globals", "f_locals", "gc", "get_type_hints", "globals", "import_module", "importlib",
    "inspect", "load_plugins", "locals", "methodcaller", "modules", "mro", "pickle", "pkgutil",
    "pydoc", "runpy", "shelve", "step_type", "step_types", "tb_frame", "vars",
})  # fmt: skip
"""Names by which code may find a class that it doesn't name."""
CODE_RUNNERS = frozenset({"compile", "eval", "exec"})
"""Functions that run a text, which may have any name in it."""
DECLARING_CALLS = frozenset({"setting", "takes", "nested_step"})
"""Functions of finery that a class body may call."""
METHOD_DECORATORS = frozenset({"property", "staticmethod", "classmethod"})
"""Decorators that its methods may have."""


def bound_names(node: ast.AST) -> Iterator[str]:
    """The names of variables that a node itself binds; `*` if they aren't known."""
    if isinstance(node, ast.Name):
        yield from () if isinstance(node.ctx, ast.Load) else (node.id,)
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.partition(".")[0]
    else:  # definitions, exception handlers, patterns, type parameters
        yield from (v for f in ("name", "rest") if isinstance(v := getattr(node, f, None), str))


def is_plain_class(
    node: ast.stmt, sources: Mapping[str, str], bind_counts: Mapping[str, int]
) -> bool:
    """Whether a statement defines a class of which only the bases, finery's own, do anything.

    sources: name → the module that it is imported from. bind_counts: how often the file binds
    a name.
    """
    if not isinstance(node, ast.ClassDef) or node.decorator_list or bind_counts[node.name] != 1:
        return False
    bases = [sources.get(getattr(base, "id", ""), "") for base in node.bases]
    values = (child for keyword in node.keywords for child in ast.walk(keyword))
    return (
        bool(bases)
        and all(map(is_finery_module, bases))
        and not any(isinstance(child, ast.Name) for child in values)
        and all(_is_plain(child, sources) for child in node.body)
    )


def _is_plain(node: ast.stmt, sources: Mapping[str, str]) -> bool:
    """Whether a statement of a class body defines a method or a variable, and calls nothing."""
    evaluated: list[ast.AST | None] = [node]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if not all(getattr(child, "id", "") in METHOD_DECORATORS for child in node.decorator_list):
            return False
        evaluated = [node.args, node.returns]
    elif not isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr | ast.Pass):
        return False
    return not any(
        _has_effect(child, sources)
        for expression in evaluated
        if expression
        for child in ast.walk(expression)
    )


def _has_effect(node: ast.AST, sources: Mapping[str, str]) -> bool:
    """Whether it is an assignment to a part of something, or a call, except of `setting` etc."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", "")
        return name not in DECLARING_CALLS or sources.get(name) != "finery"
    return isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store)


def step_table(node: ast.stmt) -> ast.Dict | None:
    """The table of step types that the hook `finery_steps` returns at its end."""
    last_statement = (
        node.body[-1] if isinstance(node, ast.FunctionDef) and node.name == TABLE else None
    )
    table = last_statement.value if isinstance(last_statement, ast.Return) else None
    return table if isinstance(table, ast.Dict) else None
