"""`"module:Name"`: what is imported only when it is needed."""

import importlib
from typing import Any


def load_reference(reference: Any) -> Any:
    """The object that `"module:Name"` names; anything but text is returned as it is.

    A step's key doesn't follow references: they are for code that can't change an output. Raises
    what the import raises, `AttributeError` where the module has no such name.
    """
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
