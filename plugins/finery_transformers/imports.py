"""Imports of peft that don't wait for torch's compiler.

If bitsandbytes is installed, peft imports it, which passes four functions to `torch.compile`. That
alone imports the compiler: 2 of the 10 seconds of CPU time until a training on a CPU begins.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

from finery import outside_key


@outside_key
@cache
def import_peft() -> None:
    """Import peft. Functions that its imports compile are compiled when they are first called."""
    with _compiled_later():
        import peft  # noqa: F401


@contextmanager
def _compiled_later() -> Iterator[None]:
    import torch

    compile_now = torch.compile

    def compile_later(function: Any = None, **settings: Any) -> Any:
        if function is None:
            return lambda given: compile_later(given, **settings)
        return _later(function, lambda: compile_now(function, **settings))

    torch.compile = compile_later  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_now


def _later(function: Callable[..., Any], compiled: Callable[[], Any]) -> Callable[..., Any]:
    """The function, which is compiled by its first call."""
    once = cache(compiled)

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return once()(*arguments, **named)

    return call
