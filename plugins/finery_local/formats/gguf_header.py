"""The header of a GGUF file: values by key, tensors by name.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package gguf reads headers
too, but it imports numpy and makes an array for each token, which is too slow for `finery plan`.
Every length is checked before anything of that length is read.
"""

import mmap
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from finery import DataError

_SCALARS = {**dict(enumerate("BbHhIif?")), 10: "Q", 11: "q", 12: "d"}
"""Type of a value → its format in `struct`."""
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)

# Several times what the largest known models have.
MOST_VALUES, MOST_TENSORS = 2**16, 2**18
MOST_STRINGS = 2**22
"""Texts in all arrays together: tokens and merges."""
LONGEST_KEY, LONGEST_TEXT = 2**16, 2**24
"""Bytes, of a key or a tensor's name, and of a value."""
MOST_DIMENSIONS = 8
_ALIGNMENTS = {8 * 2**n for n in range(18)}


class Array(NamedTuple):
    """An array in a header; only its length is read."""

    length: int


class Tensor(NamedTuple):
    """A tensor in a header. kind: a `GGMLQuantizationType`. start: its first byte in the file."""

    kind: int
    elements: int
    start: int


class Header(NamedTuple):
    """The part of a GGUF file before its weights: values by key, tensors by name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(path: Path) -> Header:
    """The header of a file. Raises `DataError` if it is damaged or cut short."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _HeaderReader(content).read()
    except struct.error as error:
        raise damaged(path, "the header is incomplete") from error
    except (ValueError, OverflowError) as error:
        raise damaged(path, str(error)) from error
    except OSError as error:
        raise DataError(f"can't read the file: {error.strerror}", where=str(path)) from error


class _HeaderReader:
    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._size = len(content)
        self._position = 4
        self._order = "<"
        self._strings = 0

    def read(self) -> Header:
        if self._content[:4] != b"GGUF":
            raise ValueError("it doesn't begin with 'GGUF'")
        if self._content[4:6] == b"\0\0":  # of the version, which is a small number
            self._order = ">"
        if (version := self._number("I")) not in _VERSIONS:
            raise ValueError(f"version {version} of the format is unknown")
        tensor_count = self._count("Q", MOST_TENSORS, "tensors")
        value_count = self._count("Q", MOST_VALUES, "values")
        values: dict[str, Any] = {}
        for _ in range(value_count):
            key = self._key(values)
            values[key] = self._value(self._number("I"))
        tensors: dict[str, Tensor] = {}
        for _ in range(tensor_count):
            key = self._key(tensors)
            tensors[key] = self._tensor()
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment not in _ALIGNMENTS:
            raise ValueError("general.alignment isn't a power of two from 8 to 1,048,576")
        data = -(-self._position // alignment) * alignment
        return Header(values, {n: t._replace(start=data + t.start) for n, t in tensors.items()})

    def _number(self, form: str) -> Any:
        (number,) = struct.unpack_from(self._order + form, self._content, self._position)
        self._position += struct.calcsize(self._order + form)
        return number

    def _count(self, form: str, most: int, things: str) -> int:
        number = int(self._number(form))
        if number > most:
            raise ValueError(f"it claims {number:,} {things}, and at most {most:,} are read")
        return number

    def _skip(self, size: int) -> None:
        if size > self._size - self._position:
            raise ValueError("the header is incomplete")
        self._position += size

    def _text(self, longest: int = LONGEST_TEXT) -> str:
        size = self._count("Q", longest, "bytes of one text")
        start = self._position
        self._skip(size)
        return self._content[start : self._position].decode("utf-8", "replace")

    def _key(self, known: dict[str, Any]) -> str:
        key = self._text(LONGEST_KEY)
        if not key or key in known:
            raise ValueError(f"{key[:80]!r} occurs twice" if key else "a name is empty")
        return key

    def _value(self, kind: int) -> Any:
        if kind == _ARRAY:
            return self._array()
        return self._text() if kind == _STRING else self._number(_scalar(kind))

    def _array(self) -> Array:
        kind, length = self._number("I"), self._number("Q")
        if kind == _ARRAY:
            raise ValueError("it has an array of arrays, which llama.cpp doesn't read")
        if kind == _STRING:
            self._strings += length
            if self._strings > MOST_STRINGS:
                raise ValueError(f"its arrays claim more than {MOST_STRINGS:,} texts")
            for _ in range(length):
                self._skip(self._number("Q"))
        else:
            self._skip(length * struct.calcsize(self._order + _scalar(kind)))
        return Array(length)

    def _tensor(self) -> Tensor:
        dimensions = self._count("I", MOST_DIMENSIONS, "dimensions of a tensor")
        shape = [self._number("Q") for _ in range(dimensions)]
        return Tensor(self._number("I"), prod(shape), self._number("Q"))


def _scalar(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"values of type {kind} are unknown")
    return _SCALARS[kind]


def damaged(path: Path, why: str) -> DataError:
    """The error for an incomplete file."""
    return DataError(
        f"{path.name} is not a GGUF file, or is damaged or cut short: {why}",
        where=str(path),
        fix="copy or download it again",
    )
