"""A GGUF file as a `Model`."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery import DataError, Job, Model, StepError
from finery_local.digest import identities
from finery_local.gguf_header import Header, Tensor, damaged, read_header


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
        raise damaged(path, f"its weights end at byte {end}, and it has {size}")


def _end(tensor: Tensor, path: Path) -> int:
    """Where a tensor ends in the file."""
    sizes = _gguf().GGML_QUANT_SIZES
    if tensor.kind not in sizes:
        raise damaged(path, f"its weights are of an unknown type, {tensor.kind}")
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
