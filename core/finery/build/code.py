"""The digest of a step's code: its module and what that imports from finery plugins.

Comments and docstrings don't count (the syntax tree without them is hashed), nor does layout. The
imports followed are those into the step's own package and into other plugins' packages, wherever
in the file they stand; libraries count by version (`packages=`), finery itself by its key format.
"""

import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from finery.errors import PluginError

Parsed = tuple[str, list[str]]
"""(digest of the file's code, modules it imports, dotted and absolute; see `parse.py`)."""


def code_of(
    cls: Any, packages: Iterable[str], parsed: Callable[[Path, str], Parsed]
) -> dict[str, str]:
    """File (package-relative) → digest, for the module of `cls` and what it imports.

    cls: a class or a function.
    packages: top-level packages of all plugins. parsed: `parse.parse_file`, or a cache before it.
    """
    module = sys.modules[cls.__module__]
    if module.__file__ is None:
        raise PluginError(
            f"the code of {cls.__module__} is not in a file", fix="put the step type into a module"
        )
    roots = {
        name: root
        for name in {*packages, cls.__module__.partition(".")[0]}
        if (root := _root(name))
    }
    found: dict[str, str] = {}
    stack = [(cls.__module__, Path(module.__file__))]
    while stack:
        name, path = stack.pop()
        label = _label(name, path)
        if label in found:
            continue
        digest, imports = parsed(path, name)
        found[label] = digest
        stack.extend(
            (m, p) for m in imports if (p := _file_of(m, roots)) and _label(m, p) not in found
        )
    return dict(sorted(found.items()))


def _file_of(imported: str, roots: dict[str, Path]) -> Path | None:
    """The file that an import reads from a plugin's package, None for all other imports.

    `from package import name` reads `package/name.py` where there is one, else the package's
    own file; merely passing through a package's `__init__.py` doesn't count.
    """
    base, _, name = imported.partition(":")
    top, *rest = base.split(".")
    if top not in roots:
        return None
    folder = roots[top].joinpath(*rest)
    choices = [folder / f"{name}.py", folder / name / "__init__.py"] if name else []
    choices += [folder.with_name(f"{folder.name}.py"), folder / "__init__.py"]
    return next((p for p in choices if _is_file(p)), None)


@lru_cache(maxsize=4096)
def _is_file(path: Path) -> bool:
    return path.is_file()


@lru_cache(maxsize=256)
def _root(package: str) -> Path | None:
    """The folder of a top-level package that is imported; a lone module has none."""
    module = sys.modules.get(package)
    paths = getattr(module, "__path__", None)
    return Path(next(iter(paths))) if paths else None


def _label(module: str, path: Path) -> str:
    """How explain calls a file: by module path, free of where the package is installed."""
    top = module.partition(":")[0].partition(".")[0]
    root = _root(top)
    if root is None or not path.is_relative_to(root):
        return path.name
    return str(Path(top) / path.relative_to(root))
