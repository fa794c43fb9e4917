"""Files with several step types: those that can't matter to another one don't count for it.

Otherwise, an edit of one step type would rerun the steps of all others in its file. A worker
doesn't define what doesn't count (`source_without`), so nothing can depend on it. The conditions
here only see to it that the file works without it.
"""

import ast
import sys
from collections.abc import Iterator, Mapping

from finery.plugin.cut import TABLE

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
"""Decorators of methods that only wrap them."""
KINDS = (ast.Subscript, ast.Tuple, ast.List, ast.BitOr, ast.expr_context)
"""What annotations consist of, beside names and literals."""


def binds(node: ast.AST) -> Iterator[str]:
    """The names that a node itself binds; `*` if they aren't known."""
    if isinstance(node, ast.Name):
        yield from () if isinstance(node.ctx, ast.Load) else (node.id,)
    elif isinstance(node, ast.alias):
        yield node.asname or node.name.partition(".")[0]
    elif isinstance(node, ast.arg):
        yield node.arg
    else:  # definitions, exception handlers, patterns, type parameters
        yield from (v for f in ("name", "rest") if isinstance(v := getattr(node, f, None), str))


def is_plain_class(
    node: ast.stmt, sources: Mapping[str, str], bound: Mapping[str, int]
) -> list[str] | None:
    """The modules of the bases of a class that does nothing but exist; None for anything else.

    sources: name → the module that it is imported from. bound: how often the file binds a name.
    """
    if not isinstance(node, ast.ClassDef) or node.decorator_list or bound[node.name] != 1:
        return None
    bases = [sources.get(base.id, "") if isinstance(base, ast.Name) else "" for base in node.bases]
    if not bases or "" in bases or getattr(node, "type_params", None):
        return None
    values = [keyword.value for keyword in node.keywords]
    plain = all(keyword.arg for keyword in node.keywords) and all(map(_is_literal, values))
    wraps = {name for name in WRAPS if not bound.get(name)}
    return bases if plain and all(_is_plain(s, sources, wraps) for s in node.body) else None


def _is_plain(node: ast.stmt, sources: Mapping[str, str], wraps: set[str]) -> bool:
    """Whether a statement of a class body has no effect elsewhere."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = [each for each in ast.walk(node.args) if isinstance(each, ast.arg)]
        hints = [each.annotation for each in arguments] + [node.returns]
        defaults = filter(None, (*node.args.defaults, *node.args.kw_defaults))
        return (
            all(isinstance(d, ast.Name) and d.id in wraps for d in node.decorator_list)
            and all(hint is None or _is_type(hint, sources) for hint in hints)
            and all(map(_is_value, defaults))
            and not getattr(node, "type_params", None)
        )
    if isinstance(node, ast.AnnAssign):
        value = node.value
        return (
            isinstance(node.target, ast.Name)
            and _is_type(node.annotation, sources)
            and (value is None or _is_value(value) or _declares(value, sources))
        )
    if isinstance(node, ast.Assign):
        return all(isinstance(t, ast.Name) for t in node.targets) and _is_value(node.value)
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_text or isinstance(node, ast.Pass)


def _declares(node: ast.expr, sources: Mapping[str, str]) -> bool:
    """Whether it is a call of `setting` and the like with values."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return False
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    is_own = node.func.id in DECLARES and sources.get(node.func.id) == "finery"
    return is_own and all(k.arg for k in node.keywords) and all(map(_is_value, values))


def _is_type(node: ast.expr, sources: Mapping[str, str]) -> bool:
    """Whether an annotation is a name, or consists of types of Python and of finery."""
    return isinstance(node, ast.Name) or all(
        isinstance(each, KINDS)
        or (isinstance(each, ast.BinOp) and isinstance(each.op, ast.BitOr))
        or (isinstance(each, ast.Name) and _is_usual(sources.get(each.id, "builtins")))
        or (isinstance(each, ast.Constant) and "(" not in str(each.value))
        for each in ast.walk(node)
    )


def _is_usual(module: str) -> bool:
    """Whether a module is of Python or of finery."""
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top.startswith("finery")


def _is_value(node: ast.expr) -> bool:
    """Whether it is a literal or a variable."""
    return isinstance(node, ast.Name) or _is_literal(node)


def _is_literal(node: ast.expr) -> bool:
    kinds = (ast.Constant, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.UnaryOp, ast.unaryop,
             ast.expr_context)  # fmt: skip
    return all(isinstance(each, kinds) for each in ast.walk(node))


def table_of(node: ast.stmt, sources: Mapping[str, str]) -> ast.Dict | None:
    """What the hook `finery_steps` returns, if it is only names of step types and their classes."""
    if not isinstance(node, ast.FunctionDef) or node.name != TABLE:
        return None
    marks = [sources.get(d.id) if isinstance(d, ast.Name) else "" for d in node.decorator_list]
    is_marked = marks == ["finery"] and getattr(node.decorator_list[0], "id", "") == "hookimpl"
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    table = body[0].value if len(body) == 1 and isinstance(body[0], ast.Return) else None
    if not is_marked or not isinstance(table, ast.Dict) or any(ast.iter_child_nodes(node.args)):
        return None
    is_plain = all(
        isinstance(key, ast.Constant) and isinstance(value, ast.Name | ast.Constant)
        for key, value in zip(table.keys, table.values, strict=True)
    )
    return table if is_plain and (node.returns is None or _is_type(node.returns, sources)) else None
