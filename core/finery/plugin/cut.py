"""Plugin files without the step types that a step's key doesn't cover."""

import ast
from collections.abc import Collection

TABLE = "finery_steps"
"""The hook with a table of step types."""


def source_without(source: bytes, path: str, classes: Collection[str]) -> ast.Module:
    """The syntax tree of a plugin file without some classes, and without them in its table.

    The lines of everything else stay. So a step can't depend on what isn't in its key.
    """
    tree = ast.parse(source, path)
    tree.body = [
        node for node in tree.body
        if not (isinstance(node, ast.ClassDef) and node.name in classes)
    ]  # fmt: skip
    for node in tree.body:
        for inner in ast.walk(node) if getattr(node, "name", "") == TABLE else ():
            if isinstance(inner, ast.Dict):
                pairs = zip(inner.keys, inner.values, strict=True)
                kept = [pair for pair in pairs if getattr(pair[1], "id", "") not in classes]
                inner.keys, inner.values = [k for k, _ in kept], [v for _, v in kept]
    return tree
