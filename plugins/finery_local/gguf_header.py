"""The header of a GGUF file: values by key, tensors by name.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package gguf reads headers
too, but imports numpy and makes an array of every token: too slow for `finery plan`.
"""

import mmap
import struct
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from finery import DataError

_SCALARS = {**dict(enumerate("BbHhIif?")), 10: "Q", 11: "q", 12: "d"}
"""Type of a value → its form in `struct`."""
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)


class Array(NamedTuple):
    """An array in a header, of which only the length is read."""

    length: int


class Tensor(NamedTuple):
    """A tensor in a header. kind: a `GGMLQuantizationType`. start: its first byte in the file."""

    kind: int
    elements: int
    start: int


class Header(NamedTuple):
    """What a GGUF file holds before its weights: values by key, tensors by name."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(path: Path) -> Header:
    """The header of a file. Raises `DataError` where it is damaged or cut short."""
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _HeaderReader(content).read()
    except struct.error as error:
        raise damaged(path, "the header isn't whole") from error
    except (ValueError, OverflowError) as error:
        raise damaged(path, str(error)) from error


class _HeaderReader:
    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self._position = 4
        self._order = "<"

    def read(self) -> Header:
        if self._content[:4] != b"GGUF":
            raise ValueError("it doesn't begin with 'GGUF'")
        if self._content[4:6] == b"\0\0":  # of the version, which is a small number
            self._order = ">"
        if (version := self._number("I")) not in _VERSIONS:
            raise ValueError(f"version {version} of the format is unknown")
        tensor_count, value_count = self._number("Q"), self._number("Q")
        values = {self._text(): self._value(self._number("I")) for _ in range(value_count)}
        tensors = {self._text(): self._tensor() for _ in range(tensor_count)}
        if self._position > len(self._content):
            raise ValueError("the header isn't whole")
        alignment = values.get("general.alignment", 32)
        data = -(-self._position // alignment) * alignment
        return Header(values, {n: t._replace(start=data + t.start) for n, t in tensors.items()})

    def _number(self, form: str) -> Any:
        (number,) = struct.unpack_from(self._order + form, self._content, self._position)
        self._position += struct.calcsize(self._order + form)
        return number

    def _text(self) -> str:
        size = self._number("Q")
        start, self._position = self._position, self._position + size
        return self._content[start : self._position].decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _ARRAY:
            return self._array()
        return self._text() if kind == _STRING else self._number(_scalar(kind))

    def _array(self) -> Array:
        kind, length = self._number("I"), self._number("Q")
        if kind == _STRING:
            for _ in range(length):
                size = self._number("Q")
                self._position += size
        else:
            self._position += length * struct.calcsize(self._order + _scalar(kind))
        return Array(length)

    def _tensor(self) -> Tensor:
        shape = [self._number("Q") for _ in range(self._number("I"))]
        return Tensor(self._number("I"), prod(shape), self._number("Q"))


def _scalar(kind: int) -> str:
    if kind not in _SCALARS:
        raise ValueError(f"values of type {kind} are unknown")
    return _SCALARS[kind]


def damaged(path: Path, why: str) -> DataError:
    """What to raise for a file that isn't whole."""
    return DataError(
        f"{path.name} is not a GGUF file, or is damaged or cut short: {why}",
        where=str(path),
        fix="copy or download it again",
    )
