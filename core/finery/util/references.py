"""References to code: by `"module:Name"`, by the names of a stub, and outside of keys.

What they name is imported when it is first used, so that commands start faster.
"""

from collections.abc import Callable
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any, TypeVar

OUTSIDE_KEY_MARK = "finery_outside_key"
"""The attribute that `outside_key` sets."""
OUTSIDE_KEY_CODE: set[CodeType] = set()
"""The code of the functions and methods that are marked."""
F = TypeVar("F", bound=Callable[..., Any])


def load_reference(reference: Any) -> Any:
    """The object that `"module:Name"` names. Anything except text is returned unchanged.

    Keys of steps don't follow references. Raises what the import raises, and `AttributeError` if
    the module has no such name.
    """
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def outside_key(definition: F) -> F:
    """Keep a wrapper that only observes steps out of keys: a promise of its author.

    In finery's own code, also functions, methods and classes that can't change an output, although
    `run` reaches them, with all that only they reach: they log, measure, explain an error or
    refuse, or what they return is in the key as a fact. Also code that `cache_key` names.
    """
    setattr(definition, OUTSIDE_KEY_MARK, True)
    functions = vars(definition).values() if isinstance(definition, type) else (definition,)
    OUTSIDE_KEY_CODE.update(f.__code__ for f in functions if isinstance(f, FunctionType))
    return definition


REPLACED_NAMES = {
    "OneFile": "`File`",
    "OptionalFiles": '`Files`, and `setting(may_be="missing")`',
    "FileOrName": '`File`, and `setting(may_be="name")`',
}
"""Public names of early versions → what replaces them."""


def exports(
    file: str, names: dict[str, Any], moved_to: str = "", ends_with: str = ""
) -> tuple[list[str], Callable[[str], Any]]:
    """(`__all__`, `__getattr__`) of a module whose stub has a line for each of its names.

    file, names: `__file__` and `globals()` of the module. moved_to: the module with names that were
    once here: they are still found, with a `DeprecationWarning`. ends_with: the version in which
    they won't be.
    """
    with open(f"{file}i", encoding="utf-8") as stub:
        homes = {line.split()[3]: line.split()[1] for line in stub if line.startswith("from ")}
    module = names["__name__"]

    def value(name: str) -> Any:
        if name in REPLACED_NAMES:  # as an `AttributeError`, Python would replace its text
            raise ImportError(f"{module}.{name} no longer exists: write {REPLACED_NAMES[name]}")
        if name in homes:
            names[name] = getattr(import_module(homes[name]), name)
            return names[name]
        if moved_to and not name.startswith("_"):
            new_home = import_module(moved_to)
            if name in new_home.__all__:
                _warn_of_moved(f"{module}.{name}", moved_to, ends_with)
                return getattr(new_home, name)
        raise AttributeError(f"module '{module}' has no attribute '{name}'")

    return sorted(homes), value


def _warn_of_moved(name: str, moved_to: str, ends_with: str) -> None:
    import sys
    import warnings

    plugin = sys._getframe(2).f_globals.get("__name__", "")
    if not plugin.startswith("importlib"):  # `from … import` asks twice
        text = f"{plugin} uses {name}: from finery {ends_with} on, it is only in {moved_to}"
        warnings.warn(text, DeprecationWarning, stacklevel=3)
