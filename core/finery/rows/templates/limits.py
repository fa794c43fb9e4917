"""Jinja's sandbox with limits on what one operation may make."""

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from jinja2 import StrictUndefined
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_CHARACTERS = 10_000_000
"""Characters of a text, or items of a list, that an operation may make."""
MOST_BITS = 10_000
"""The largest whole number, in bits: some 3,000 digits."""
_WIDE = re.compile(r"%[^a-zA-Z%]*\d{8}|\{[^{}]*:[^{}]*\d{8}")
"""A width in a text that values are put into, in the way of `%` or of `{}`."""
_OPEN = re.compile(r"%[^a-zA-Z%]*\*|\{[^{}]*:[^{}]*\{")
"""A width that is a value itself."""
_CHANGES = ("random", "lipsum")
"""Filters and functions of Jinja that give something else each time."""
_SIZED = ("center", "expandtabs", "indent", "ljust", "rjust", "zfill")
"""Filters and methods of texts that make them as long as they are told."""
_LAYOUTS = ("format", "format_map")
"""Filters and methods that put values into a text."""


class LimitedSandbox(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, without chance, and with `OverflowError` for what is too large.

    The operators below are never computed when a template is compiled, nor is any other constant.
    """

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, finalize: Callable[..., Any]) -> None:
        super().__init__(undefined=StrictUndefined, finalize=finalize, optimized=False)
        for name in _CHANGES:
            self.filters.pop(name, None)
            self.globals.pop(name, None)
        for name in self.filters.keys() & {*_SIZED, *_LAYOUTS}:
            self.filters[name] = _limited(name, self.filters[name])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """The operator's value, looked at before it is computed."""
        if _SIZE_OF[operator](left, right):
            raise OverflowError(f"{operator} makes a number or a text that is too large")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function or a method; those of texts, e.g. `ljust`, make texts of any length."""
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox has its own `str.format`
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str):
            _check_call(method.__name__, owner, (*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)


def _limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        _check_call(name, args[0], (*args[1:], *kwargs.values()))
        return function(*args, **kwargs)

    return limited


def _check_call(name: str, text: Any, values: tuple[Any, ...]) -> None:
    if (name in _SIZED and _has_large(values)) or (name in _LAYOUTS and _is_wide(text, values)):
        raise OverflowError(f"{name} makes a text that is too long")


def _is_wide(layout: Any, values: Any) -> bool:
    if not isinstance(layout, str):
        return False
    given = values if isinstance(values, tuple) else (values,)
    return bool(_WIDE.search(layout)) or (bool(_OPEN.search(layout)) and _has_large(given))


def _has_large(values: tuple[Any, ...]) -> bool:
    return any(isinstance(value, int) and value > MOST_CHARACTERS for value in values)


def _is_long_sum(left: Any, right: Any) -> bool:
    return _length(left) + _length(right) > MOST_CHARACTERS


def _is_large_product(left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length() > MOST_BITS
    number = left if isinstance(left, int) else right
    other = right if number is left else left
    return isinstance(number, int) and number * _length(other) > MOST_CHARACTERS


def _is_large_power(left: Any, right: Any) -> bool:
    both = isinstance(left, int) and isinstance(right, int)
    return both and left.bit_length() * max(right, 0) > MOST_BITS


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


_SIZE_OF: dict[str, Callable[[Any, Any], bool]] = {
    "+": _is_long_sum,
    "*": _is_large_product,
    "**": _is_large_power,
    "%": _is_wide,
}
"""Operator → whether what it makes is too large."""
