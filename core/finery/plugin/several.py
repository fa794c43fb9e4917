"""Files with several step types: those that can't matter to another one don't count for it.

Otherwise, an edit of one step type would rerun the steps of all others in its file. A worker
doesn't define what doesn't count (`tree_without`), so nothing can depend on it. The conditions
here only see to it that the file works without it.
"""

import ast
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
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


def tree_without(content: bytes, path: str, classes: Collection[str]) -> ast.Module:
    """The syntax tree of a plugin file without some classes, and without them in its table.

    The lines of everything else stay. So a step can't depend on what isn't in its key.
    """
    tree = ast.parse(content, path)
    cut = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name in classes]
    tree.body = [node for node in tree.body if node not in cut]
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
    return not DYNAMIC_NAMES.isdisjoint(words) or any(map(_is_computed, nodes))


def _is_computed(node: ast.AST) -> bool:
    """Whether a node may use a name that it computes."""
    if isinstance(node, ast.Call):
        is_getattr = "getattr" in (getattr(node.func, "id", ""), getattr(node.func, "attr", ""))
        return is_getattr and not any(isinstance(name, ast.Constant) for name in node.args[1:2])
    # These run a text, which may have any name in it, unlike `re.compile`.
    return isinstance(node, ast.Name) and node.id in ("compile", "eval", "exec")


def plain_classes(tree: ast.Module) -> list[str]:
    """The classes of a file of which only the bases, finery's own, do anything."""
    bind_counts = Counter(name for node in ast.walk(tree) for name in _bound_names(node))
    sources = {
        alias.asname or alias.name: node.module or ""
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
        if bind_counts[alias.asname or alias.name] == 1 and not bind_counts["*"]
    }
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return [c.name for c in classes if bind_counts[c.name] == 1 and _is_plain_class(c, sources)]


def _bound_names(node: ast.AST) -> Iterator[str]:
    """The names of variables that a node itself binds; `*` if they aren't known."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    if isinstance(name := getattr(node, "asname", None) or getattr(node, "name", None), str):
        yield name.partition(".")[0]  # of imports, definitions, exception handlers, patterns, types
    if isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest


def _is_plain_class(node: ast.ClassDef, sources: Mapping[str, str]) -> bool:
    """sources: name → the module that it is imported from."""
    bases = [sources.get(getattr(base, "id", ""), "") for base in node.bases]
    values = (child for keyword in node.keywords for child in ast.walk(keyword))
    return (
        bool(bases and not node.decorator_list)
        and all(map(is_finery_module, bases))
        and not any(isinstance(child, ast.Name) for child in values)
        and all(_is_plain(child, sources) for child in node.body)
    )


def _is_plain(node: ast.stmt, sources: Mapping[str, str]) -> bool:
    """Whether a statement of a class body defines a method or a variable, and calls nothing."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        decorators = {getattr(decorator, "id", "") for decorator in node.decorator_list}
        parts: list[ast.AST] = [node.args, node.returns or ast.Pass()]
        is_plain = decorators <= {"property", "staticmethod", "classmethod"}
    else:
        parts = [node]
        is_plain = isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr | ast.Pass)
    children = (child for part in parts for child in ast.walk(part))
    return is_plain and not any(_has_effect(child, sources) for child in children)


def _has_effect(node: ast.AST, sources: Mapping[str, str]) -> bool:
    """Whether it is an assignment to a part of something, or a call, except of `setting` etc."""
    if isinstance(node, ast.Call):
        name = getattr(node.func, "id", "")
        return name not in ("setting", "takes", "nested_step") or sources.get(name) != "finery"
    return isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store)
