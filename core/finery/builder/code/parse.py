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
from finery.builder.code.several import OPEN, RUNS, binds, is_plain_class, table_of
from finery.plugin.cut import TABLE

IMPORTERS = frozenset({"import_module", "__import__"})
"""Functions whose first argument names a module."""
_IMPORT = re.compile(
    rb"(?m)^[^#\n\w]*(?:from[ \t]+([.\w]+)[ \t]+import\b|import[ \t]+([\w., \t]+))"
)
_WORD = re.compile(r"\w+")


def pieces_of(path: Path, content: bytes) -> list[Piece]:
    """The statements at the top of a file."""
    pieces: list[Piece] = []

    def parse() -> None:
        with suppress(Exception):  # a newer syntax, too deep, or a number that is too long
            pieces[:] = _pieces(ast.parse(content))

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


def _pieces(tree: ast.Module) -> Iterator[Piece]:
    bound = Counter(name for node in ast.walk(tree) for name in binds(node))
    sources = dict.fromkeys(bound, "") | {
        alias.asname or alias.name: node.module or ""
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and not node.level
        for alias in node.names
        if bound[alias.asname or alias.name] == 1 and not bound["*"]
    }
    for node in tree.body:
        table = table_of(node)
        nodes = [*ast.walk(node)]
        texts = {id(each.value) for each in nodes if isinstance(each, ast.Expr)}  # docstrings
        texts |= {id(each) for each in (node, *table.values)} if table is not None else set()
        words = {word for each in nodes if id(each) not in texts for word in _words(each)}
        is_plain = is_plain_class(node, sources, bound)
        yield Piece(
            name=_defined(node),
            digests=_digests(node, table),  # takes the node to pieces
            imports=[imported for each in nodes for imported in _imports(each)],
            words=frozenset(words),
            is_open=not words.isdisjoint({*OPEN, TABLE}) or any(map(_is_computed, nodes)),
            is_plain=is_plain,
        )


def _defined(node: ast.stmt) -> str:
    """The function, class or variable that a statement defines; empty for others."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return str(getattr(node, "name", getattr(targets[0], "id", "")))


def _digests(node: ast.stmt, table: ast.Dict | None) -> dict[str, str]:
    """Definition → digest. Methods have their own, and so have entries of a table of step types.

    An entry has the name of its class, since it counts like that.
    """
    parts: list[tuple[str, ast.AST]] = []
    if isinstance(node, ast.ClassDef):
        for index, each in enumerate(node.body):
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                parts.append((each.name, each))
                node.body[index] = ast.Pass()
    elif table is not None:
        for key, value in zip(table.keys, table.values, strict=True):
            parts.append((getattr(value, "id", ""), ast.Dict([key], [value])))
        table.keys, table.values = [], []
    name = _defined(node)
    digests = {name: _digest(node)}
    for inner, part in parts:
        inner = f"{name}.{inner}"
        digests[inner] = digests.get(inner, "") + _digest(part)
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
    elif isinstance(node, ast.Call) and _name_of(node.func) in IMPORTERS and node.args:
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
        for each in value if isinstance(value, list) else (value,):
            if isinstance(each, str):
                yield from _WORD.findall(each)


def _is_computed(node: ast.AST) -> bool:
    """Whether a node may use a name that it computes."""
    if isinstance(node, ast.Name) and node.id in RUNS:  # unlike `re.compile`
        return True
    if not isinstance(node, ast.Call) or _name_of(node.func) != "getattr":
        return False
    return len(node.args) < 2 or not isinstance(node.args[1], ast.Constant)


def _name_of(node: ast.expr) -> str:
    return str(getattr(node, "id", getattr(node, "attr", "")))
