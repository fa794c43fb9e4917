"""A GGUF file as a `Model`."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from finery import DataError, Job, Model, StepError
from finery_local.files import Name, identities, reason
from finery_local.formats.gguf_header import Header, Tensor, damaged, read_header
from finery_local.template import digest_of

LONGEST_LICENSE = 200
"""Characters of a licence's name."""


class Facts(msgspec.Struct, frozen=True):
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
        known = msgspec.convert(header.values, Facts)
    except msgspec.ValidationError as error:
        raise damaged(path, f"of the values in its header, {reason(error)}") from error
    _check_whole_model(header, known, path)
    facts = {
        "format": "gguf",
        "architecture": known.architecture,
        "parameters": sum(tensor.elements for tensor in header.tensors.values()),
        "dtype": _dtype(header, known.file_type),
        "chat_template": bool(known.chat_template),
        "chat_template_digest": digest_of(known.chat_template) if known.chat_template else None,
        "license": known.license and " ".join(known.license.split())[:LONGEST_LICENSE],
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _check_whole_model(header: Header, known: Facts, path: Path) -> None:
    if known.parts is not None and known.parts > 1:
        raise DataError(
            f"{path.name} is one of {known.parts} parts of a model",
            where=str(path),
            fix="join them once: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
    if (kind := known.type or "model") != "model":
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
