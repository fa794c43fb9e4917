"""A GGUF file: what its header says, and the file as a `Model`.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package gguf reads headers
too, but imports numpy and makes an array of every token: too slow for `finery plan`.
"""

import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from finery import DataError, Job, Model, StepError
from finery_local.digest import identities

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
        raise _damaged(path, "the header isn't whole") from error
    except (ValueError, OverflowError) as error:
        raise _damaged(path, str(error)) from error


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


def external_gguf(path: Path, job: Job, *, about: Mapping[str, Any]) -> Model:
    """A `Model` of a GGUF file that stays where it is. `about`: more facts for `meta`."""
    facts = gguf_facts(path)
    files = {path.name: path.absolute()}
    meta = {**about, **facts, "file": path.name, "files": identities(files, job)}
    return Model(job.out, meta=meta, external=files)


def gguf_facts(path: Path) -> dict[str, Any]:
    """What a GGUF's header says of the model, as `Model.meta` has it.

    format, architecture (llama.cpp's name), parameters, dtype (`q4_1`: what most of the weights
    are in), chat_template (has one), license if it names one. Raises `DataError` for a file that
    is damaged, one part of several, or not a language model.
    """
    header = read_header(path)
    _check_whole_model(header, path)
    values = header.values
    facts = {
        "format": "gguf",
        "architecture": values.get("general.architecture"),
        "parameters": sum(tensor.elements for tensor in header.tensors.values()),
        "dtype": _dtype(header),
        "chat_template": bool(values.get("tokenizer.chat_template")),
        "license": values.get("general.license"),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _check_whole_model(header: Header, path: Path) -> None:
    if (parts := header.values.get("split.count", 1)) > 1:
        raise DataError(
            f"{path.name} is one of {parts} parts of a model",
            where=str(path),
            fix="join them once: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
    if (kind := header.values.get("general.type") or "model") != "model":
        what = f"{path.name} is of the type '{kind}', not a whole language model"
        raise DataError(what, where=str(path))
    if not header.tensors:
        raise DataError(f"{path.name} holds a vocabulary and no weights", where=str(path))
    size = path.stat().st_size
    if (end := max(_end(tensor, path) for tensor in header.tensors.values())) > size:
        raise _damaged(path, f"its weights end at byte {end}, and it has {size}")


def _end(tensor: Tensor, path: Path) -> int:
    """Where a tensor ends in the file."""
    sizes = _gguf().GGML_QUANT_SIZES
    if tensor.kind not in sizes:
        raise _damaged(path, f"its weights are of an unknown type, {tensor.kind}")
    elements, size = sizes[tensor.kind]
    return tensor.start + int(tensor.elements // elements * size)


def _dtype(header: Header) -> str:
    """The file type the writer declared; without one, the type of most elements."""
    declared = header.values.get("general.file_type")
    if declared in {kind.value for kind in _gguf().LlamaFileType}:
        kind = _gguf().LlamaFileType(declared)
        return str(kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").lower())
    counts: Counter[int] = Counter()
    for tensor in header.tensors.values():
        counts[tensor.kind] += tensor.elements
    return str(_gguf().GGMLQuantizationType(counts.most_common(1)[0][0]).name.lower())


def _gguf() -> Any:
    """The package with the names and sizes of the types of weights, whose list grows."""
    try:
        import gguf
    except ImportError as error:
        raise StepError(
            "reading a GGUF file takes the package gguf, which isn't installed",
            fix="pip install 'finery[train]'",
        ) from error
    return gguf


def _damaged(path: Path, why: str) -> DataError:
    return DataError(
        f"{path.name} is not a GGUF file, or is damaged or cut short: {why}",
        where=str(path),
        fix="copy or download it again",
    )
