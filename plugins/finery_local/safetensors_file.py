"""The header of a safetensors file, read without loading a tensor.

Format: https://huggingface.co/docs/safetensors: 8 bytes little-endian header length, the header
as JSON {tensor: {dtype, shape, data_offsets}}, then the data, which tensors cover without holes.
"""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import msgspec

from finery import DataError, Model
from finery_local.facts import file_names
from finery_local.files import reason

LARGEST_HEADER = 32 * 2**20
"""Bytes: room for some 300,000 tensors. The format itself allows 100 MB."""

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
BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2,
    "I16": 2, "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""dtype → bytes of an element; others may share a byte."""

_Whole = Annotated[int, msgspec.Meta(ge=0)]


class Tensor(msgspec.Struct, frozen=True):
    """A tensor in a header. data_offsets: its first byte in the data, and the next one."""

    dtype: Annotated[str, msgspec.Meta(pattern=r"\A[A-Z0-9_]{1,20}\Z")]
    shape: list[_Whole]
    data_offsets: tuple[_Whole, _Whole]


_TENSOR = msgspec.json.Decoder(Tensor)
_TENSORS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_METADATA = msgspec.json.Decoder(dict[str, str])


def elements_by_dtype(path: Path) -> Counter[str]:
    """The number of elements in the file's tensors, by torch's name of their dtype.

    Raises `DataError` for a file that is damaged or cut short.
    """
    counts: Counter[str] = Counter()
    for tensor in _tensors(path).values():
        counts[TORCH_NAMES.get(tensor.dtype, tensor.dtype.lower())] += math.prod(tensor.shape)
    return counts


def tensors_of(model: Model) -> dict[str, list[int]]:
    """Tensor → its shape, of a Hugging Face folder; empty for models of other formats."""
    if model.format != "transformers":
        return {}
    files = [model.file(name) for name in file_names(model) if name.endswith(".safetensors")]
    return {tensor: shape for file in files for tensor, shape in shapes(file).items()}


def shapes(path: Path) -> dict[str, list[int]]:
    """Tensor → its shape. Raises what `elements_by_dtype` raises."""
    return {name: tensor.shape for name, tensor in _tensors(path).items()}


def _tensors(path: Path) -> dict[str, Tensor]:
    raw, data = _header(path)
    try:
        texts = _TENSORS.decode(raw)
        _METADATA.decode(texts.pop("__metadata__", b"{}"))
        tensors = {name: _tensor(path, name, text) for name, text in texts.items()}
        json.loads(raw, object_pairs_hook=_unique)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _damaged(path, f"has a header that isn't a safetensors header: {error}") from error
    if not tensors:
        raise _damaged(path, "holds no tensors")
    _check_places(path, tensors, data)
    return tensors


def _header(path: Path) -> tuple[bytes, int]:
    """The header, and the size of the data after it in bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":  # "version https://git-lfs.github.com/spec/v1"
            raise _damaged(path, "is a Git LFS pointer, not the weights", "run `git lfs pull`")
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise _damaged(path, "is not a safetensors file, or is cut short")
        if length > LARGEST_HEADER:
            raise _damaged(path, f"has a header larger than {LARGEST_HEADER // 2**20} MiB")
        return file.read(length), size - 8 - length


def _tensor(path: Path, name: str, text: msgspec.Raw) -> Tensor:
    try:
        return _TENSOR.decode(text)
    except msgspec.MsgspecError as error:
        what = "dtype: expected a short name" if "regex" in str(error) else reason(error)
        raise _damaged(path, f"has an invalid tensor {_short(name)}: {what}") from error


def _check_places(path: Path, tensors: dict[str, Tensor], data: int) -> None:
    """Raise `DataError` unless the tensors cover the data, one after the other."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].data_offsets):
        first, last = tensor.data_offsets
        elements = math.prod(tensor.shape)
        size = elements * BYTES[tensor.dtype] if tensor.dtype in BYTES else last - first
        if last - first != size or elements > 8 * size:
            raise _damaged(
                path,
                f"has an invalid tensor {_short(name)}: "
                f"{last - first} bytes don't hold a {tensor.dtype} of the shape {tensor.shape[:8]}",
            )
        if first != end:
            problem = "overlaps another tensor" if first < end else "leaves a gap before it"
            raise _damaged(path, f"has an invalid tensor {_short(name)}: it {problem}")
        end = last
    if end != data:
        missing = path.stat().st_size - data + end
        raise _damaged(path, f"should be {missing} bytes long and is {path.stat().st_size}")


def _unique(pairs: list[tuple[str, Any]]) -> None:
    """Refuse an object that has a key twice: readers differ in which one they take."""
    names = Counter(name for name, _ in pairs)
    twice = next((name for name, count in names.items() if count > 1), None)
    if twice is not None:
        raise ValueError(f"{_short(twice)} occurs twice")


def _short(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}…")


def _damaged(path: Path, what: str, fix: str = "copy or download it again") -> DataError:
    return DataError(f"{path.name} {what}", where=str(path), fix=fix)
