"""One Python file: the digest of its code, and what it imports.

Apart from `code`, since `ast` is needed only for files that changed since they were last read.
"""

import ast
from pathlib import Path

from blake3 import blake3

from finery.build.code import Parsed
from finery.errors import PluginError


def parse_file(path: Path, module: str) -> Parsed:
    """Digest and imports of one file."""
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise PluginError(
            f"syntax error: {error.msg}", where=f"{path}:{error.lineno}", fix="repair it"
        ) from error
    imports = list(_imports(tree, module, path.name == "__init__.py"))
    _strip_docstrings(tree)
    return blake3(ast.dump(tree).encode()).hexdigest(), imports


def _strip_docstrings(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            first = body[0] if body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                del body[0]


def _imports(tree: ast.Module, module: str, is_package: bool) -> list[str]:
    """What a module imports, each as `package.module` or `package.module:name`."""
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parent = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parent, base] if base else parent)
            found.update((f"{base}:{alias.name}", None) for alias in node.names)
    return list(found)
