"""A GGUF file as a `Model`. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery import DataError, Job, Model, StepError
from finery_local.digest import identities


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
    reader = _read(path)
    _check_whole_model(reader, path)
    facts = {
        "format": "gguf",
        "architecture": _value(reader, "general.architecture"),
        "parameters": sum(int(tensor.n_elements) for tensor in reader.tensors),
        "dtype": _dtype(reader),
        "chat_template": bool(_value(reader, "tokenizer.chat_template")),
        "license": _value(reader, "general.license"),
    }
    return {name: fact for name, fact in facts.items() if fact is not None}


def _read(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise StepError(
            "reading a GGUF file takes the package gguf, which isn't installed",
            fix="pip install 'finery[train]'",
        ) from error
    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, OverflowError) as error:
        raise DataError(
            f"{path.name} is not a GGUF file, or is damaged or cut short: {error}",
            where=str(path),
            fix="copy or download it again",
        ) from error


def _check_whole_model(reader: Any, path: Path) -> None:
    if (parts := _value(reader, "split.count") or 1) > 1:
        raise DataError(
            f"{path.name} is one of {parts} parts of a model",
            where=str(path),
            fix="join them once: llama-gguf-split --merge FIRST_PART WHOLE.gguf",
        )
    if (kind := _value(reader, "general.type") or "model") != "model":
        what = f"{path.name} is of the type '{kind}', not a whole language model"
        raise DataError(what, where=str(path))
    if not reader.tensors:
        raise DataError(f"{path.name} holds a vocabulary and no weights", where=str(path))


def _dtype(reader: Any) -> str:
    """The file type the writer declared; without one, the type of most elements."""
    from gguf import LlamaFileType

    declared = _value(reader, "general.file_type")
    if declared in {kind.value for kind in LlamaFileType}:
        return LlamaFileType(declared).name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
    counts: Counter[str] = Counter()
    for tensor in reader.tensors:
        counts[tensor.tensor_type.name.lower()] += int(tensor.n_elements)
    return max(counts, key=lambda kind: counts[kind])


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return field.contents() if field else None
