"""How plugins refer to code: imported when it is needed, by `"module:Name"`, or outside of keys."""

import importlib
from collections.abc import Callable
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
    return getattr(importlib.import_module(module), name)


def outside_key(definition: F) -> F:
    """Keep a wrapper that only observes steps out of keys: a promise of its author.

    In finery's own code, also functions, methods and classes that can't change an output, although
    `run` reaches them, with all that only they reach: they log, measure, explain an error or
    refuse, or what they return is in the key as a fact. Also code that `key_code` names.
    """
    setattr(definition, OUTSIDE_KEY_MARK, True)
    functions = vars(definition).values() if isinstance(definition, type) else (definition,)
    OUTSIDE_KEY_CODE.update(f.__code__ for f in functions if isinstance(f, FunctionType))
    return definition
