"""`"module:Name"`: objects that are imported when they are needed."""

import importlib
from typing import Any


def load_reference(reference: Any) -> Any:
    """The object that `"module:Name"` names. Anything except text is returned unchanged.

    Keys of steps don't follow references, which are for code that can't change an output. Raises
    what the import raises, and `AttributeError` if the module has no such name.
    """
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
