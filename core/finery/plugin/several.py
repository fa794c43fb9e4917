"""Files with several step types: those that can't matter to another one don't count for it.

Otherwise, an edit of one step type would rerun the steps of all others in its file. A worker
doesn't define what doesn't count (`tree_without`), so nothing can depend on it. The conditions
here only see to it that the file works without it.
"""

import ast
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import compress

from finery.util.installed import is_finery_module

DYNAMIC_NAMES = frozenset({
    "finery_steps", "__annotations__", "__bases__", "__builtins__", "__dict__", "__getattribute__",
    "__globals__", "__import__", "__mro__", "__subclasses__", "_getframe", "attrgetter",
    "builtins", "cloudpickle", "currentframe", "dill", "dir", "f_back", "f_builtins", "f_globals",
    "f_locals", "gc", "get_type_hints", "globals", "import_module", "importlib", "inspect",
    "load_plugins", "locals", "methodcaller", "modules", "mro", "pickle", "pkgutil", "pydoc",
    "runpy", "shelve", "step_type", "step_types", "tb_frame", "vars",
})  # fmt: skip
"""Names by which code may find a class that it doesn't name."""
DYNAMIC_FUNCTIONS = ("compile", "eval", "exec", "getattr")
"""Functions by which it may, too, unlike methods of the same name."""
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def tree_without(content: bytes, path: str, classes: Collection[str]) -> ast.Module:
    """The syntax tree of a plugin file without some classes, and without them in its table.

    The lines of everything else stay. So a step can't depend on what isn't in its key.
    """
    tree = ast.parse(content, path)
    tree.body = [n for n in tree.body if not (isinstance(n, ast.ClassDef) and n.name in classes)]
    for table in filter(None, map(step_table, tree.body)):
        is_kept = [getattr(value, "id", "") not in classes for value in table.values]
        table.keys = [*compress(table.keys, is_kept)]
        table.values = [*compress(table.values, is_kept)]
    return tree


def step_table(node: ast.stmt) -> ast.Dict | None:
    """The table of step types that the hook `finery_steps` returns at its end."""
    match node:
        case ast.FunctionDef(name="finery_steps", body=[*_, ast.Return(value=ast.Dict() as table)]):
            return table
    return None


def may_find_classes(nodes: Iterable[ast.AST], words: Collection[str]) -> bool:
    """Whether code may look for classes that it doesn't name. words: its names, also in strings."""
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    return not (DYNAMIC_NAMES.isdisjoint(words) and used.isdisjoint(DYNAMIC_FUNCTIONS))


def plain_classes(tree: ast.Module) -> list[str]:
    """The classes of a file of which only the bases, finery's own, do anything."""
    bind_counts = Counter(map(_bound_name, ast.walk(tree)))
    own_names = {
        name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and is_finery_module(node.module or "")
        for name in map(_bound_name, node.names)
        if bind_counts[name] == 1 and not (node.level or bind_counts["*"])
    }
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [c.name for c in classes if bind_counts[c.name] == 1 and _is_plain(c, own_names)]


def _bound_name(node: ast.AST) -> str:
    """The variable that a node itself binds, if any; `*` if it isn't known."""
    if isinstance(node, ast.Name):
        return "" if isinstance(node.ctx, ast.Load) else node.id
    # Of imports, definitions, exception handlers and patterns:
    name = next((getattr(node, f) for f in ("asname", "name", "rest") if getattr(node, f, 0)), "")
    return name.partition(".")[0] if isinstance(name, str) else ""


def _is_plain(node: ast.ClassDef, own_names: Collection[str]) -> bool:
    """Whether a class has only bases of finery's, and its body only defines methods and variables.

    own_names: names that are certainly finery's.
    """
    methods = [child for child in node.body if isinstance(child, FUNCTIONS)]
    others = [child for child in node.body if not isinstance(child, FUNCTIONS)]
    decorators = {getattr(d, "id", "") for method in methods for d in method.decorator_list}
    parts = [*others, *(m.args for m in methods), *(m.returns for m in methods if m.returns)]
    bases = {getattr(base, "id", "") for base in node.bases}
    values = (child for keyword in node.keywords for child in ast.walk(keyword))
    return (
        bool(bases and not node.decorator_list)
        and bases.issubset(own_names)
        and decorators <= {"property", "staticmethod", "classmethod"}
        and all(isinstance(c, ast.Assign | ast.AnnAssign | ast.Expr | ast.Pass) for c in others)
        and not any(isinstance(value, ast.Name) for value in values)
        and not any(_has_effect(child, own_names) for part in parts for child in ast.walk(part))
    )


def _has_effect(node: ast.AST, own_names: Collection[str]) -> bool:
    """Whether it is an assignment to a part of something, or a call, except of `setting` etc."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", "")
        return name not in ("setting", "takes", "nested_step") or name not in own_names
    return isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store)
