"""What modules import: when they are loaded, in a fresh interpreter, and by their source."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress

from finery.builder.code.imports import module_label
from finery.builder.code.index import CodeIndex
from finery.errors import FineryError
from finery.plugin.manager import load_plugins
from finery.util.installed import Distribution, finery_packages, normalise_name, plugin_packages

HEAVY = frozenset({
    "accelerate", "bitsandbytes", "datasets", "gguf", "httpx", "huggingface_hub", "jax",
    "llama_cpp", "llguidance", "llmcompressor", "mlx", "numpy", "onnxruntime", "openai", "pandas",
    "peft", "plotly", "polars", "pyarrow", "ray", "reasoning_gym", "requests", "safetensors",
    "scipy", "sentence_transformers", "sklearn", "spacy", "sqlalchemy", "tensorflow", "tokenizers",
    "torch", "transformers", "trl", "unsloth", "vllm",
})  # fmt: skip
"""Packages that take long to import. A step type is loaded by every command that sees a recipe
with it, so its module imports them only inside the functions that use them."""
HEAVY_FIX = "import it inside the function that uses it"
REQUIRE_FIX = "add it to `dependencies` in pyproject.toml; if only a step needs it, to `installs=`"

_LOAD = """
import importlib, json, runpy, sys
modules, heavy = json.load(sys.stdin)
for index, module in enumerate(modules):
    try:
        if module.endswith(".py"):
            runpy.run_path(module)
        else:
            importlib.import_module(module)
    except BaseException as error:
        print(json.dumps([index, [], f"{type(error).__name__}: {error}"]))
        sys.exit()
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(heavy))
    if loaded:
        print(json.dumps([index, loaded, ""]))
        sys.exit()
"""


def problems_of_loading(modules: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(module, what is wrong) of those that import something heavy, or can't be imported.

    modules: their names, or paths of files. They are loaded in one fresh interpreter, and in a
    further one after each problem.
    """
    rest = list(modules)
    while rest:
        loading = subprocess.run(
            [sys.executable, "-c", _LOAD],
            input=json.dumps([rest, sorted(HEAVY)]),
            capture_output=True,
            text=True,
        )
        report = loading.stdout.strip().rpartition("\n")[2]
        if loading.returncode or not report:
            if loading.returncode:
                yield rest[0], f"loading it ends Python with exit code {loading.returncode}"
            return
        index, heavy, error = json.loads(report)
        what = f"can't be imported: {error}" if error else f"imports {', '.join(heavy)} when loaded"
        yield rest[index], what
        rest = rest[index + 1 :]


def problems_of_requirements(module: str) -> list[str]:
    """The imports in the package of an installed plugin that its metadata doesn't require.

    As `imports numpy, which …`. A package that a step type names in `installs` is required, too.
    Imports for type checkers, and those whose failure is handled, don't count, nor does what isn't
    installed here: it can't be known which distribution that belongs to.
    """
    distribution = plugin_packages().get(module.partition(".")[0])
    if distribution is None:
        return []
    index = CodeIndex([], None)
    required = _required(index, distribution)
    places: dict[str, str] = {}
    for own in index.contents(distribution).modules():
        with open(own.path, "rb") as file, suppress(SyntaxError, ValueError):
            for name, line in _imports(ast.parse(file.read())):
                owners = {*index.installed.owners.get(name, ())}
                owners |= {"finery"} if name in finery_packages() else set()
                if owners and not owners & required and name != own.name.partition(".")[0]:
                    place = f"{module_label(own)}:{line}"
                    places.setdefault(" or ".join(sorted(owners)), place)
    return [
        f"imports {name}, which {distribution.name} doesn't require ({place})"
        for name, place in sorted(places.items())
    ]


def _required(index: CodeIndex, distribution: Distribution) -> set[str]:
    """What a distribution requires, directly or through others, and what it says to install."""
    names = {distribution.name}
    for name, (_, plugin) in (plugins := load_plugins()).step_types.items():
        if plugin_packages().get(plugin.module.__name__.partition(".")[0]) == distribution:
            with suppress(FineryError):  # reported elsewhere
                names |= plugins.step_type(name).__spec__.installs.keys()
    return with_requirements(index, map(normalise_name, names))


def with_requirements(index: CodeIndex, names: Iterable[str]) -> set[str]:
    """Distributions, by normalised name, with those that they require, directly or not."""
    pending, required = {(name, "") for name in names}, set[tuple[str, str]]()
    while pending:
        name, extra = pending.pop()
        required.add((name, extra))
        for needed, extras, own_extra in index.installed.requires.get(name, ()):
            if own_extra in ("", extra):
                pending |= {(needed, each) for each in ("", *extras)} - required
    return {name for name, _ in required}


def _imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(top-level package, line) of imports that must work."""
    if isinstance(tree, ast.Import):
        yield from ((alias.name.partition(".")[0], tree.lineno) for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom) and tree.level == 0:
        yield str(tree.module).partition(".")[0], tree.lineno
    ignored: list[ast.stmt] = []
    match tree:
        case ast.If(test=test, body=body) if "TYPE_CHECKING" in ast.unparse(test):
            ignored = body
        case ast.Try(body=body, handlers=handlers) if any(map(_handles_import, handlers)):
            ignored = body
    for child in ast.iter_child_nodes(tree):
        if child not in ignored:
            yield from _imports(child)


def _handles_import(handler: ast.ExceptHandler) -> bool:
    handled = ast.unparse(handler.type) if handler.type else "Exception"
    return any(name in handled for name in ("ImportError", "ModuleNotFoundError", "Exception"))
