"""Files with several step types: those that can't matter to another one don't count for it.

Otherwise, an edit of one step type would rerun the steps of all others in its file. A worker
doesn't define what doesn't count (`source_without`), so nothing can depend on it. The conditions
here only see to it that the file works without it.
"""

import ast
from collections.abc import Iterator, Mapping

from finery.plugin.cut import TABLE
from finery.util.installed import is_own

OPEN = frozenset({
    "__annotations__", "__bases__", "__builtins__", "__dict__", "__getattribute__", "__globals__",
    "__import__", "__mro__", "__subclasses__", "_getframe", "attrgetter", "builtins",
    "cloudpickle", "currentframe", "dill", "dir", "f_back", "f_builtins",
    "f_globals", "f_locals", "gc", "get_type_hints", "globals", "import_module", "importlib",
    "inspect", "load_plugins", "locals", "methodcaller", "modules", "mro", "pickle", "pkgutil",
    "pydoc", "runpy", "shelve", "step_type", "step_types", "tb_frame", "vars",
})  # fmt: skip
"""Names by which code may find a class that it doesn't name."""
RUNS = frozenset({"compile", "eval", "exec"})
"""Functions that run a text, which may have any name in it."""
DECLARES = frozenset({"setting", "takes", "nested_step"})
"""Functions of finery that a class body may call."""
WRAPS = frozenset({"property", "staticmethod", "classmethod"})
"""Decorators that its methods may have."""


def binds(node: ast.AST) -> Iterator[str]:
    """The names of variables that a node itself binds; `*` if they aren't known."""
    if isinstance(node, ast.Name):
        yield from () if isinstance(node.ctx, ast.Load) else (node.id,)
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.partition(".")[0]
    else:  # definitions, exception handlers, patterns, type parameters
        yield from (v for f in ("name", "rest") if isinstance(v := getattr(node, f, None), str))


def is_plain_class(node: ast.stmt, sources: Mapping[str, str], bound: Mapping[str, int]) -> bool:
    """Whether a statement defines a class of which only the bases, finery's own, do anything.

    sources: name → the module that it is imported from. bound: how often the file binds a name.
    """
    if not isinstance(node, ast.ClassDef) or node.decorator_list or bound[node.name] != 1:
        return False
    bases = [sources.get(getattr(base, "id", ""), "") for base in node.bases]
    values = (each for keyword in node.keywords for each in ast.walk(keyword))
    return (
        bool(bases)
        and all(map(is_own, bases))
        and not any(isinstance(each, ast.Name) for each in values)
        and all(_is_plain(each, sources) for each in node.body)
    )


def _is_plain(node: ast.stmt, sources: Mapping[str, str]) -> bool:
    """Whether a statement of a class body defines a method or a variable, and calls nothing."""
    run: list[ast.AST | None] = [node]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        if not all(getattr(each, "id", "") in WRAPS for each in node.decorator_list):
            return False
        run = [node.args, node.returns]
    elif not isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr | ast.Pass):
        return False
    return not any(_acts(each, sources) for part in run if part for each in ast.walk(part))


def _acts(node: ast.AST, sources: Mapping[str, str]) -> bool:
    """Whether it is an assignment to a part of something, or a call, except of `setting` etc."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", "")
        return name not in DECLARES or sources.get(name) != "finery"
    return isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store)


def table_of(node: ast.stmt) -> ast.Dict | None:
    """The table of step types that the hook `finery_steps` returns at its end."""
    last = node.body[-1] if isinstance(node, ast.FunctionDef) and node.name == TABLE else None
    table = last.value if isinstance(last, ast.Return) else None
    return table if isinstance(table, ast.Dict) else None
