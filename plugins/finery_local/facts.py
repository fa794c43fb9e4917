"""What the files of a built model state: the one reader of each, whatever the model's format.

In goes a `Model`. The files may come from strangers, so `files` and `gguf_file` check them. Without
a file, nothing is known: the answer is empty.
"""

import re
from pathlib import Path
from typing import Any

from finery import Artifact, Model
from finery_local.files import read_object
from finery_local.gguf_file import read_header

CONFIG = "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_QUANTIZATION = re.compile(r"(?:^|[.-])(i?q\d\w*|b?f16|f32)$", re.IGNORECASE)
"""The conventional endings of GGUF file names."""


def root_of(model: Model) -> Model:
    """The model under all adapters."""
    base = model.refs.get("base")
    return root_of(base) if isinstance(base, Model) else model


def file_names(artifact: Artifact) -> list[str]:
    """The names of an artifact's own and external files."""
    manifest, root = artifact.manifest, artifact.path
    own = manifest.files if manifest else [p.relative_to(root) for p in root.rglob("*")]
    files = {str(name) for name in own if (root / name).is_file()}
    return sorted({*files, *artifact.external} - {"manifest.json"})


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty without the file. `DataError` if it is something else."""
    return read_object(file) if file.is_file() else {}


def text_config(model: Model) -> dict[str, Any]:
    """The `config.json` of a model, or of its base; the part on text if it also reads images."""
    config = read_json(root_of(model).file(CONFIG))
    text = config.get("text_config")
    return text if isinstance(text, dict) and text else config


def context_of(model: Model) -> int | None:
    """The longest sequence that a model takes, in tokens; None if its files don't state it."""
    root = root_of(model)
    if root.format == "gguf":
        values = read_header(root.file(str(root.meta["file"]))).values
        context = values.get(f"{values.get('general.architecture')}.context_length")
    else:
        context = text_config(root).get("max_position_embeddings")
    return context if isinstance(context, int) else None


def end_tokens_of(model: Model) -> set[int]:
    """The ids of the tokens that end an answer, by the files of a model or of its base."""
    ends: set[int] = set()
    for name in ("generation_config.json", CONFIG):
        value = read_json(root_of(model).file(name)).get("eos_token_id")
        ends |= {i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
    return ends


def license_of(model: Model) -> str | None:
    """The licence of a model, or of the nearest base that has one."""
    base = model.refs.get("base")
    if model.meta.get("license") or not isinstance(base, Model):
        return model.meta.get("license")
    return license_of(base)


def split_file_name(name: str) -> tuple[str, str]:
    """(model, type of its weights in capitals) by a GGUF's name; an empty type if it has none."""
    stem = Path(name).stem
    match = _QUANTIZATION.search(stem)
    return (stem[: match.start()], match[1].upper()) if match else (stem, "")
