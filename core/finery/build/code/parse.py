"""One Python file: the digest of its code, what it imports, and the digest of each function.

Separate from `follow`, since `ast` is needed only for changed files.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from blake3 import blake3

from finery.build.code.counted import counted
from finery.build.code.follow import OWN, Parsed
from finery.errors import PluginError

Names = dict[str, str]
"""Function, `Class.method` or variable → digest; `""` for code without a name."""
DIGITS = 16
"""Hex digits of a function's digest."""


def parse_file(path: Path) -> tuple[Parsed, Names]:
    """The relevant parts of one file. Of a compiled module or a file without code, its bytes."""
    source = path.read_bytes()
    if path.suffix != ".py":
        return Parsed(blake3(source).hexdigest(), [], {}), {}
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise PluginError(
            f"syntax error: {error.msg}", where=f"{path}:{error.lineno}", fix="repair it"
        ) from error
    bound = _bindings(tree) if path.name == "__init__.py" else {}
    tree = counted(tree)
    imports = _imports(tree)
    pieces = list(_pieces(tree.body))
    digest = blake3("\n".join(f"{name}\0{code}" for name, code in pieces).encode()).hexdigest()
    return Parsed(digest, imports, bound), _digests(pieces)


def _pieces(body: Iterable[ast.stmt], within: str = "") -> Iterator[tuple[str, str]]:
    """(name, code) of each statement, with classes split into head, fields and methods."""
    for node in body:
        match node:
            case ast.ClassDef(name=name):
                head = ast.ClassDef(name, node.bases, node.keywords, [], node.decorator_list)
                yield f"{within}{name}", ast.dump(head)
                yield from _pieces(node.body, f"{within}{name}.")
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield f"{within}{name}", ast.dump(node)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield f"{within}{name}", ast.dump(node)
            case _:
                yield within.rstrip("."), ast.dump(node)


def _digests(pieces: Iterable[tuple[str, str]]) -> Names:
    """A name may occur more than once, e.g. a property with its setter."""
    codes: dict[str, list[str]] = {}
    for name, code in pieces:
        codes.setdefault(name, []).append(code)
    return {name: blake3("\n".join(c).encode()).hexdigest()[:DIGITS] for name, c in codes.items()}


# -- imports -----------------------------------------------------------------------------------


def _imports(tree: ast.Module) -> list[str]:
    """The imports of a module, anywhere in the file: `package.module` or `package.module:name`.

    Relative ones start with their dots. An attribute of an imported module counts as imported
    from it: after `import package`, `package.module.f` reads `package:module`.
    """
    imports: dict[str, None] = {}
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for alias in names:
                    imports[alias.name] = None
                    top = alias.name.partition(".")[0]
                    modules[alias.asname or top] = alias.name if alias.asname else top
            case ast.ImportFrom(module=module, names=names, level=level):
                base = "." * level + (module or "")
                for alias in names:
                    imports[f"{base}:{alias.name}"] = None
                    modules[alias.asname or alias.name] = f"{base}:{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (name := _imported_by_call(node, modules)):
            imports[name] = None
    for name, *attributes in _chains(tree):
        if name in modules:
            imports.update(dict.fromkeys(_read(modules[name], attributes)))
    return list(imports)


def _read(module: str, attributes: list[str]) -> Iterator[str]:
    """What `module.a.b` may read: `module:a`, `module.a:b`."""
    base, _, name = module.partition(":")
    base = _joined(base, name)
    for attribute in attributes:
        yield f"{base}:{attribute}"
        base = _joined(base, attribute)


def _joined(base: str, name: str) -> str:
    separator = "" if not base or not name or base.endswith(".") else "."
    return f"{base}{separator}{name}"


def _chains(tree: ast.Module) -> Iterator[list[str]]:
    """Each `a.b.c` in a file, as a list of names."""
    inner: set[int] = set()
    for node in ast.walk(tree):  # the outermost attribute of a chain comes first
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        names, within = [node.attr], node.value
        while isinstance(within, ast.Attribute):
            inner.add(id(within))
            names.append(within.attr)
            within = within.value
        if isinstance(within, ast.Name):
            yield [within.id, *reversed(names)]


def _imported_by_call(node: ast.Call, modules: Mapping[str, str]) -> str:
    """The module of `importlib.import_module("x")` or `__import__("x")`; empty for other calls.

    modules: name → what it was imported from.
    """
    match node.func:
        case ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"):
            pass
        case ast.Name(id=name) if modules.get(name) == "importlib:import_module":
            pass
        case _:
            return ""
    arguments = dict(zip(("name", "package"), node.args, strict=False))
    arguments |= {keyword.arg or "": keyword.value for keyword in node.keywords}
    module, package = (_text(arguments.get(name)) for name in ("name", "package"))
    if not module.startswith(".") or not package:
        return module
    dots = len(module) - len(module.lstrip("."))
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - dots + 1], module.lstrip(".")])


def _text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


# -- what a package's __init__ binds -------------------------------------------------------------


def _bindings(tree: ast.Module) -> dict[str, str]:
    """Name → the module from which a package's `__init__` imports it under the same name.

    `OWN` unless it is a single plain import at the top of the file. Imports under
    `if TYPE_CHECKING:` have a question mark, since the name is provided differently at run time.
    """
    plain: dict[str, str] = {}
    for node in tree.body:
        plain |= _plain(node)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            plain |= {n: f"{m}?" for s in node.body for n, m in _plain(s).items() if n not in plain}
    sources: dict[str, str] = {}
    for name in _bound(tree):
        sources[name] = OWN if name in sources else plain.get(name, OWN)
    return sources


def _plain(node: ast.stmt) -> dict[str, str]:
    match node:
        case ast.ImportFrom(module=module, names=names, level=level) if level or module:
            base = "." * level + (module or "")
            return {a.name: base for a in names if a.name != "*" and a.asname in (None, a.name)}
    return {}


def _bound(tree: ast.Module) -> Iterator[str]:
    """Every binding of a name, including those in functions, which may be global."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=names) | ast.Import(names=names):
                for alias in names:
                    yield alias.asname or alias.name.partition(".")[0]
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
