"""How plugins refer to code: imported when it is needed, by `"module:Name"`, or outside of keys."""

import importlib
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, TypeVar

OUTSIDE = "finery_outside_key"
"""The attribute that `outside_key` sets."""
MARKED: set[CodeType] = set()
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
    return getattr(importlib.import_module(module), name)


def outside_key(definition: F) -> F:
    """Keep a function, method, class or hook out of keys, with all that only it reaches.

    For code that can't change an output, although `run` reaches it: it logs, measures, explains an
    error or refuses, or what it returns is in the key as a fact. Also for code that `key_code`
    names where it is used. Of the hooks, only `finery_run_step` is otherwise in keys.
    """
    setattr(definition, OUTSIDE, True)
    functions = vars(definition).values() if isinstance(definition, type) else (definition,)
    MARKED.update(f.__code__ for f in functions if isinstance(f, FunctionType))
    return definition
