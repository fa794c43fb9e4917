"""Makes libraries load faster: peft without torch's compiler, and GGUF files read once.

If bitsandbytes is installed, peft imports it, which passes four functions to `torch.compile`. That
alone imports the compiler: 2 of the 10 seconds of CPU time until a training on a CPU begins.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, wraps
from pathlib import Path
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


# -- GGUF ------------------------------------------------------------------------------------------
#
# To load a model and its tokenizer, transformers reads the file's header four times, each token's
# text by several slices of a memory map, and builds the table of tensor names once per module.


@contextmanager
def quick_gguf() -> Iterator[None]:
    """Read each header once, without memory maps in between, and keep tables of tensor names."""
    import gguf

    before = gguf.GGUFReader, gguf.get_tensor_name_map
    module: Any = gguf  # the replacements are functions
    module.GGUFReader, module.get_tensor_name_map = _read, cache(gguf.get_tensor_name_map)
    try:
        yield
    finally:
        module.GGUFReader, module.get_tensor_name_map = before


def _read(path: str) -> Any:
    status = Path(path).stat()
    return _reader(str(path), status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _reader(path: str, _changed: int, _size: int) -> Any:
    import numpy as np
    from gguf.gguf_reader import GGUFReader

    class Reader(GGUFReader):
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            kind = np.dtype(dtype).newbyteorder(override_order or self.byte_order)
            return np.frombuffer(self.data, kind, int(count), int(offset))

    return Reader(path)
