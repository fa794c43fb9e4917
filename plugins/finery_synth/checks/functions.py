"""A recipe's own functions that check rows, from a file or an installed package."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finery import UsageError, shown
from finery.rows import Row
from finery.util.text import did_you_mean
from finery_synth.checks.settings import Functions


def functions_of(settings: Functions) -> dict[str, Callable[[Row], Any]]:
    """Name in the recipe → function. `UsageError` for one that doesn't exist."""
    functions = {}
    own = _module(settings.file.path) if settings.file is not None else None
    for name in settings.functions:
        module, _, function = name.rpartition(":")
        functions[name] = _function(own or _imported(module), function)
    return functions


def _function(module: Any, name: str) -> Callable[[Row], Any]:
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, value in vars(module).items() if callable(value)]
        raise UsageError(
            f"{shown(Path(module.__file__))} has no function '{name}'",
            where="checks.python.functions",
            fix=did_you_mean(name, known),
        )
    return function  # type: ignore[no-any-return]


def _module(path: Path) -> Any:
    """The module in a file, freshly executed, under a name that nothing imports."""
    spec = importlib.util.spec_from_file_location(f"finery_checks_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{shown(path)} isn't a Python file", where="checks.python.file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(
            f"the file can't be imported: {type(error).__name__}: {error}",
            where=shown(path),
            fix="correct the file",
        ) from error
    return module


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UsageError(
            f"{name} can't be imported: {type(error).__name__}: {error}",
            where="checks.python.functions",
            fix="install its package, or correct the name",
        ) from error
