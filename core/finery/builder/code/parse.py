"""What a file of code holds: its imports, and digests of its syntax tree.

Comments and layout don't count, everything else does. A file that this Python can't parse, or that
nests too deep, counts by its bytes.
"""

import ast
import re
import warnings
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

from blake3 import blake3

from finery.builder.code.imports import Parsed
from finery.plugin.several import may_find_classes, plain_classes, step_table, tree_without

IMPORT_FUNCTIONS = frozenset({"import_module", "__import__"})
"""Functions whose first argument names a module."""
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
_IMPORT = re.compile(
    rb"(?m)^[^#\n\w]*(?:from[ \t]+([.\w]+)[ \t]+import\b|import[ \t]+([\w., \t]+))"
)
_WORD = re.compile(r"\w+")


def parse_file(path: Path, content: bytes, left_out: Collection[str] = ()) -> Parsed:
    """What a file holds. left_out: classes in it that don't count."""
    parsed: list[Parsed] = []

    def parse() -> None:
        with suppress(Exception):  # a newer syntax, too deep, or a number that is too long
            parsed.append(_parse_tree(tree_without(content, str(path), left_out)))

    # How deep a file may nest depends on the depth of the caller, so here it is always the same.
    thread = Thread(target=parse)
    if path.suffix == ".py":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            thread.start()
            thread.join()
    if parsed:
        return parsed[0]
    imports = _imports_in(content) if path.suffix in (".py", ".pth") else ()
    words = frozenset("" if path.suffix == ".pth" else "*")  # a .pth runs before any plugin file
    return Parsed(blake3(content).hexdigest(), {}, [*imports], [], words)


def _parse_tree(tree: ast.Module) -> Parsed:
    nodes = [*ast.walk(tree)]
    texts = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}  # docstrings
    texts |= {id(node) for node in tree.body if step_table(node) is not None}
    words = frozenset(word for node in nodes if id(node) not in texts for word in _words(node))
    imports = [imported for node in nodes for imported in _imports(node)]
    digest, plain = _digest(tree), plain_classes(tree)  # before `_definitions` takes it to pieces
    words |= {"*"} if may_find_classes(nodes, words) else set()
    return Parsed(digest, _definitions(tree), imports, plain, words)


def _definitions(tree: ast.Module) -> dict[str, str]:
    """Definition at the top of a file → digest. Methods have their own."""
    digests: dict[str, str] = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        name = str(getattr(node, "name", getattr(targets[0], "id", "")))
        methods = []
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, FUNCTIONS)]
            node.body = [child for child in node.body if child not in methods]
        for label, part in [(name, node), *((f"{name}.{m.name}", m) for m in methods)]:
            digests[label] = digests.get(label, "") + _digest(part)
    return digests


def _digest(node: ast.AST) -> str:
    """A digest of a syntax tree. Raises `RecursionError` for one that is too deep."""
    return blake3(ast.dump(node).encode()).hexdigest()


def _imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = "." * node.level + (node.module or "")
        yield from (f"{base}:{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Call) and node.args:
        function = getattr(node.func, "id", getattr(node.func, "attr", ""))
        name = getattr(node.args[0], "value", None)
        if function in IMPORT_FUNCTIONS and isinstance(name, str):
            yield name


def _imports_in(content: bytes) -> Iterator[str]:
    """The imports of a file that can't be parsed, roughly: any submodule may be meant."""
    for base, names in _IMPORT.findall(content):
        if base:
            yield f"{base.decode(errors='replace')}:*"
        for name in names.split(b","):
            if words := name.split():
                yield words[0].decode(errors="replace")


def _words(node: ast.AST) -> Iterator[str]:
    """Identifiers in a node itself, and the words of a string."""
    for _, value in ast.iter_fields(node):
        for text in value if isinstance(value, list) else (value,):
            if isinstance(text, str):
                yield from _WORD.findall(text)
