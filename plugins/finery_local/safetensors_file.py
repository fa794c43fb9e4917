"""The header of a safetensors file, read without loading a tensor.

Format: https://huggingface.co/docs/safetensors: 8 bytes little-endian header length, the header
as JSON {tensor: {dtype, shape, data_offsets}}, then the data.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from finery import DataError

LARGEST_HEADER = 100_000_000  # bytes; the format's own limit

TORCH_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def elements_by_dtype(path: Path) -> Counter[str]:
    """How many elements the file's tensors hold, by torch's name of their dtype.

    Raises `DataError` for a file that is damaged or cut short.
    """
    tensors = _tensors(path)
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        dtype = tensor["dtype"]
        counts[TORCH_NAMES.get(dtype, dtype.lower())] += math.prod(tensor["shape"])
    return counts


def shapes(path: Path) -> dict[str, list[int]]:
    """Tensor → its shape. Raises what `elements_by_dtype` raises."""
    return {name: tensor["shape"] for name, tensor in _tensors(path).items()}


def _tensors(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":  # "version https://git-lfs.github.com/spec/v1"
            raise _damaged(path, "is a Git LFS pointer, not the weights", "run `git lfs pull`")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _damaged(path, "is not a safetensors file, or is cut short")
        try:
            tensors: dict[str, Any] = {**json.loads(file.read(length))}
            tensors.pop("__metadata__", None)
            end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise _damaged(path, "has a header that isn't a safetensors header") from error
    if not tensors:
        raise _damaged(path, "holds no tensors")
    if 8 + length + end != size:
        raise _damaged(path, f"should be {8 + length + end} bytes long and is {size}")
    return tensors


def _damaged(path: Path, what: str, fix: str = "copy or download it again") -> DataError:
    return DataError(f"{path.name} {what}", where=str(path), fix=fix)
