"""What a file of code holds: its imports, and digests of its syntax tree.

Comments and layout don't count, everything else does. A file that this Python can't parse, or that
nests too deep, counts by its bytes.
"""

import ast
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

from blake3 import blake3

from finery.builder.code.piece import Piece
from finery.builder.code.several import (
    CODE_RUNNERS,
    DYNAMIC_NAMES,
    bound_names,
    is_plain_class,
    step_table,
)
from finery.plugin.cut import TABLE

IMPORT_FUNCTIONS = frozenset({"import_module", "__import__"})
"""Functions whose first argument names a module."""
_IMPORT = re.compile(
    rb"(?m)^[^#\n\w]*(?:from[ \t]+([.\w]+)[ \t]+import\b|import[ \t]+([\w., \t]+))"
)
_WORD = re.compile(r"\w+")


def parse_pieces(path: Path, content: bytes) -> list[Piece]:
    """The statements at the top of a file."""
    pieces: list[Piece] = []

    def parse() -> None:
        with suppress(Exception):  # a newer syntax, too deep, or a number that is too long
            pieces[:] = _tree_pieces(ast.parse(content))

    # How deep a file may nest depends on the depth of the caller, so here it is always the same.
    thread = Thread(target=parse)
    if path.suffix == ".py":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            thread.start()
            thread.join()
    if pieces:
        return pieces
    imports = _imports_in(content) if path.suffix in (".py", ".pth") else ()
    return [Piece("", {"": blake3(content).hexdigest()}, [*imports], is_open=True)]


def _tree_pieces(tree: ast.Module) -> Iterator[Piece]:
    bind_counts = Counter(name for node in ast.walk(tree) for name in bound_names(node))
    sources = dict.fromkeys(bind_counts, "") | {
        alias.asname or alias.name: node.module or ""
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
        if bind_counts[alias.asname or alias.name] == 1 and not bind_counts["*"]
    }
    for node in tree.body:
        table = step_table(node)
        nodes = [*ast.walk(node)]
        texts = {id(child.value) for child in nodes if isinstance(child, ast.Expr)}  # docstrings
        texts |= {id(child) for child in (node, *table.values)} if table is not None else set()
        words = {word for child in nodes if id(child) not in texts for word in _words(child)}
        is_plain = is_plain_class(node, sources, bind_counts)
        yield Piece(
            name=_defined_name(node),
            digests=_digests(node, table),  # takes the node to pieces
            imports=[imported for child in nodes for imported in _imports(child)],
            words=frozenset(words),
            is_open=not words.isdisjoint({*DYNAMIC_NAMES, TABLE}) or any(map(_is_computed, nodes)),
            is_plain=is_plain,
        )


def _defined_name(node: ast.stmt) -> str:
    """The function, class or variable that a statement defines; empty for others."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return str(getattr(node, "name", getattr(targets[0], "id", "")))


def _digests(node: ast.stmt, table: ast.Dict | None) -> dict[str, str]:
    """Definition → digest. Methods have their own, and so have entries of a table of step types.

    An entry has the name of its class, since it counts like that.
    """
    inner_parts: list[tuple[str, ast.AST]] = []
    if isinstance(node, ast.ClassDef):
        for index, statement in enumerate(node.body):
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                inner_parts.append((statement.name, statement))
                node.body[index] = ast.Pass()
    elif table is not None:
        for key, value in zip(table.keys, table.values, strict=True):
            inner_parts.append((getattr(value, "id", ""), ast.Dict([key], [value])))
        table.keys, table.values = [], []
    name = _defined_name(node)
    digests = {name: _digest(node)}
    for inner, inner_node in inner_parts:
        inner = f"{name}.{inner}"
        digests[inner] = digests.get(inner, "") + _digest(inner_node)
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
    elif isinstance(node, ast.Call) and _name_of(node.func) in IMPORT_FUNCTIONS and node.args:
        name = node.args[0]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            yield name.value


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
    for field in node._fields:
        value = getattr(node, field, None)
        for word_source in value if isinstance(value, list) else (value,):
            if isinstance(word_source, str):
                yield from _WORD.findall(word_source)


def _is_computed(node: ast.AST) -> bool:
    """Whether a node may use a name that it computes."""
    if isinstance(node, ast.Name) and node.id in CODE_RUNNERS:  # unlike `re.compile`
        return True
    if not isinstance(node, ast.Call) or _name_of(node.func) != "getattr":
        return False
    return len(node.args) < 2 or not isinstance(node.args[1], ast.Constant)


def _name_of(node: ast.expr) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))
