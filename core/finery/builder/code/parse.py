"""What a file of code holds: its imports, and digests of its syntax tree.

Comments and layout don't count, everything else does. A file that this Python can't parse counts by
its bytes. No function here recurses, since a file may nest as deep as the parser can go.
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
        with suppress(Exception):  # a newer syntax, or too deep for this Python
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
        yield Piece(
            name=_defined(node),
            digests=_digests(node) if table is None else _digests_of_table(node, table),
            imports=[imported for each in nodes for imported in _imports(each)],
            words=frozenset(words),
            is_open=not words.isdisjoint({*OPEN, TABLE}) or any(map(_is_computed, nodes)),
            is_plain=is_plain_class(node, sources, bound),
        )


def _defined(node: ast.stmt) -> str:
    """The function, class or variable that a statement defines; empty for others."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return str(getattr(node, "name", getattr(targets[0], "id", "")))


def _digests(node: ast.stmt) -> dict[str, str]:
    """Definition → digest. A class counts without its methods, which have their own."""
    if not isinstance(node, ast.ClassDef):
        return {_defined(node): _digest([node])}
    methods: dict[str, list[ast.stmt]] = {}
    rest: list[object] = []
    head: list[object]
    for each in node.body:
        is_method = isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        name = f"{node.name}.{getattr(each, 'name', '')}"
        (methods.setdefault(name, []) if is_method else rest).append(each)
        rest.append(is_method)  # the order of statements
    head = [node.name, node.bases, node.keywords, node.decorator_list, rest, [*methods]]
    head.append(getattr(node, "type_params", None))
    return {node.name: _digest(head)} | {name: _digest(each) for name, each in methods.items()}


def _digests_of_table(node: ast.stmt, table: ast.Dict) -> dict[str, str]:
    """The same for a table of step types: an entry counts like the class that it names."""
    entries: dict[str, list[object]] = {}
    for key, value in zip(table.keys, table.values, strict=True):
        entries.setdefault(f"{TABLE}.{getattr(value, 'id', '')}", []).append([key, value])
    table.keys, table.values = [], []
    return _digests(node) | {name: _digest(each) for name, each in entries.items()}


def _digest(top: object) -> str:
    """A digest of a syntax tree, or of lists of trees and constants."""
    texts: list[str] = []
    rest = [top]
    while rest:
        item = rest.pop()
        if isinstance(item, ast.AST):
            texts.append(type(item).__name__)
            rest += [getattr(item, name, None) for name in reversed(item._fields)]
        elif isinstance(item, list):
            texts.append(f"[{len(item)}")
            rest += reversed(item)
        elif type(item) is int:  # a long one has no decimal text
            texts.append(f"int {item:x}")
        else:
            texts.append(f"{type(item).__name__} {item!r}")
    return blake3("\n".join(texts).encode(errors="surrogatepass")).hexdigest()


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
