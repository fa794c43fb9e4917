"""Makes transformers read a GGUF in a fraction of the time, by two changes while it does.

To load a model and its tokenizer, transformers reads the file's header four times, each token's
text by several slices of a memory map, and builds the table of tensor names once per module.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import Any


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
