"""Modules whose names are imported when they are first used: commands start faster."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

REPLACED_NAMES = {
    "OneFile": "`File`",
    "OptionalFiles": '`Files`, and `setting(may_be="missing")`',
    "FileOrName": '`File`, and `setting(may_be="name")`',
}
"""Public names of early versions → what replaces them."""


def exports(file: str, names: dict[str, Any]) -> tuple[list[str], Callable[[str], Any]]:
    """(`__all__`, `__getattr__`) of a module whose stub has a line for each of its names.

    file, names: `__file__` and `globals()` of the module.
    """
    with open(f"{file}i", encoding="utf-8") as stub:
        homes = {line.split()[3]: line.split()[1] for line in stub if line.startswith("from ")}
    module = names["__name__"]

    def value(name: str) -> Any:
        if name in REPLACED_NAMES:  # as an `AttributeError`, Python would replace its text
            raise ImportError(f"{module}.{name} no longer exists: write {REPLACED_NAMES[name]}")
        if name not in homes:
            raise AttributeError(f"module '{module}' has no attribute '{name}'")
        names[name] = getattr(import_module(homes[name]), name)
        return names[name]

    return sorted(homes), value
