"""What a file of code holds: its imports, and digests of its syntax tree.

Comments and layout don't count, everything else does. A file that this Python can't parse, or that
nests too deep, counts by its bytes.
"""

import ast
import re
import warnings
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from blake3 import blake3

from finery.builder.code.imports import Parsed
from finery.plugin.several import may_find_classes, plain_classes, step_table, tree_without

IMPORT_FUNCTIONS = frozenset({"import_module", "__import__"})
"""Functions whose first argument names a module."""
_IMPORT = re.compile(rb"(?m)^[^#\n\w]*(?:from|import)[ \t]+([\w., \t]+)")
_WORD = re.compile(r"\w+")


def parse_file(path: Path, content: bytes, left_out: Collection[str] = ()) -> Parsed:
    """What a file holds. left_out: classes in it that don't count."""
    # It may have a newer syntax, or nest too deep. How deep a file may nest depends on the depth of
    # the caller, so here that is always the same.
    if path.suffix == ".py":
        with warnings.catch_warnings(), ThreadPoolExecutor(1) as thread, suppress(Exception):
            warnings.simplefilter("ignore")
            parsing = thread.submit(lambda: _parse_tree(tree_without(content, str(path), left_out)))
            return parsing.result()
    imports = _imports_in(content) if path.suffix in (".py", ".pth") else ()
    words = frozenset("" if path.suffix == ".pth" else "*")  # a .pth runs before any plugin file
    return Parsed(blake3(content).hexdigest(), {}, [*imports], [], words)


def _parse_tree(tree: ast.Module) -> Parsed:
    nodes = [*ast.walk(tree)]
    texts = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    texts |= {id(node) for node in tree.body if step_table(node) is not None}
    words = frozenset(word for node in nodes if id(node) not in texts for word in _words(node))
    imports = [imported for node in nodes for imported in _imports(node)]
    words |= {"*"} if may_find_classes(nodes, words) else set()
    return Parsed(_digest(tree), _definitions(tree), imports, plain_classes(tree), words)


def _definitions(tree: ast.Module) -> dict[str, str]:
    """Definition at the top of a file → digest."""
    digests: dict[str, str] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        name = str(getattr(node, "name", getattr(targets[0], "id", "")))
        digests[name] = digests.get(name, "") + _digest(node)
    return digests


def _digest(node: ast.AST) -> str:
    """A digest of a syntax tree. Raises `RecursionError` for one that is too deep."""
    return blake3(ast.dump(node).encode()).hexdigest()


def _imports(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import():
            yield from (alias.name for alias in node.names)
        case ast.ImportFrom():
            base = "." * node.level + (node.module or "")
            yield from (f"{base}:{alias.name}" for alias in node.names)
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
            if getattr(function, "id", getattr(function, "attr", "")) in IMPORT_FUNCTIONS:
                yield name


def _imports_in(content: bytes) -> Iterator[str]:
    """The imports of a file that can't be parsed, roughly: any submodule may be meant."""
    for names in _IMPORT.findall(content):
        yield from (f"{words.split()[0]}:*" for words in names.decode().split(",") if words.strip())


def _words(node: ast.AST) -> Iterator[str]:
    """Identifiers in a node itself, and the words of a string."""
    for _, value in ast.iter_fields(node):
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str):
                yield from _WORD.findall(text)
