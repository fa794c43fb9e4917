"""GGUF files: their headers, and a `Model` of one.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package gguf reads headers
too, but it imports numpy and makes an array for each token, which is too slow for `finery plan`.
Every length is checked before anything of that length is read.
"""

import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finery import DataError, Job, Model, StepError
from finery_local.files import Name, identities, reason
from finery_local.template import digest_of

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


LONGEST_LICENSE = 200
"""Characters of a licence's name."""


class StatedValues(msgspec.Struct, frozen=True):
    """The values of a header that finery reads, with their types."""

    architecture: Name | None = msgspec.field(name="general.architecture", default=None)
    license: str | None = msgspec.field(name="general.license", default=None)
    chat_template: str | None = msgspec.field(name="tokenizer.chat_template", default=None)
    file_type: int | None = msgspec.field(name="general.file_type", default=None)
    type: Name | None = msgspec.field(name="general.type", default=None)
    parts: int | None = msgspec.field(name="split.count", default=None)


def external_gguf(path: Path, job: Job, *, about: Mapping[str, Any]) -> Model:
    """A `Model` of a GGUF file, which stays in place. `about`: more facts for `meta`."""
    facts = gguf_facts(path)
    files = {path.name: path.absolute()}
    meta = {**about, **facts, "file": path.name, "files": identities(files, job)}
    return Model(job.out, meta=meta, external=files)


def gguf_facts(path: Path) -> dict[str, Any]:
    """Facts about the model from a GGUF's header, in the form of `Model.meta`.

    format, architecture (llama.cpp's name), parameters, dtype (the type of most weights, e.g.
    `q4_1`), chat_template (whether it has one), and license if it names one. Raises `DataError` for
    a file that is damaged, one part of several, or not a language model.
    """
    header = read_header(path)
    try:
        stated = msgspec.convert(header.values, StatedValues)
    except msgspec.ValidationError as error:
        raise damaged(path, f"of the values in its header, {reason(error)}") from error
    _check_whole_model(header, stated, path)
    facts = {
        "format": "gguf",
        "architecture": stated.architecture,
        "parameters": sum(tensor.elements for tensor in header.tensors.values()),
        "dtype": _dtype(header, stated.file_type),
        "chat_template": bool(stated.chat_template),
        "chat_template_digest": digest_of(stated.chat_template) if stated.chat_template else None,
        "license": stated.license and " ".join(stated.license.split())[:LONGEST_LICENSE],
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _check_whole_model(header: Header, stated: StatedValues, path: Path) -> None:
    if stated.parts is not None and stated.parts > 1:
        raise DataError(
            f"{path.name} is one of {stated.parts} parts of a model",
            where=str(path),
            fix="join them once: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
    if (kind := stated.type or "model") != "model":
        what = f"{path.name} has the type '{kind}', so it isn't a complete language model"
        raise DataError(what, where=str(path))
    if not header.tensors:
        raise DataError(f"{path.name} holds a vocabulary but no weights", where=str(path))
    size, last, end = path.stat().st_size, "", 0
    for name, tensor in sorted(header.tensors.items(), key=lambda item: item[1].start):
        if tensor.start < end:
            raise damaged(path, f"its tensors {last[:80]!r} and {name[:80]!r} overlap")
        last, end = name, _end(tensor, path)
    if end > size:
        raise damaged(path, f"its weights end at byte {end}, but it has only {size}")


def _end(tensor: Tensor, path: Path) -> int:
    """The byte after a tensor's last one."""
    sizes = _gguf().GGML_QUANT_SIZES
    if tensor.kind not in sizes:
        raise damaged(path, f"its weights are of an unknown type, {tensor.kind}")
    elements, size = sizes[tensor.kind]
    return tensor.start + int(tensor.elements // elements * size)


def _dtype(header: Header, declared: int | None) -> str:
    """The file type that the writer declared; without one, the type of most elements."""
    if declared in {kind.value for kind in _gguf().LlamaFileType}:
        kind = _gguf().LlamaFileType(declared)
        return str(kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").lower())
    counts: Counter[int] = Counter()
    for tensor in header.tensors.values():
        counts[tensor.kind] += tensor.elements
    return str(_gguf().GGMLQuantizationType(counts.most_common(1)[0][0]).name.lower())


def _gguf() -> Any:
    """The package with the names and sizes of weight types, which new versions extend."""
    try:
        import gguf
    except ImportError as error:
        raise StepError(
            "reading a GGUF file needs the package gguf, which isn't installed",
            fix="pip install 'finery[train]'",
        ) from error
    return gguf
