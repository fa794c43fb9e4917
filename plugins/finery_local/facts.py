"""What the files of a built model state: the one reader of each, whatever the model's format.

In goes a `Model`. The files may come from strangers, so `files` and `gguf_file` check them. Without
a file, nothing is known: the answer is empty.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from finery import Artifact, Model
from finery_local.files import read_object
from finery_local.gguf_file import read_header

CONFIG = "config.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_QUANTIZATION = re.compile(r"(?:^|[.-])(i?q\d\w*|b?f16|f32)$", re.IGNORECASE)
"""The conventional endings of GGUF file names."""


def file_names(artifact: Artifact) -> list[str]:
    """The names of an artifact's own and external files."""
    manifest, root = artifact.manifest, artifact.path
    own = manifest.files if manifest else [p.relative_to(root) for p in root.rglob("*")]
    files = {str(name) for name in own if (root / name).is_file()}
    return sorted({*files, *artifact.external} - {"manifest.json"})


class ModelFiles(NamedTuple):
    """What the files of a model state, and those of its root, the model under all adapters."""

    model: Model

    @property
    def root(self) -> Model:
        """The model under all adapters."""
        base = self.model.refs.get("base")
        return ModelFiles(base).root if isinstance(base, Model) else self.model

    def json(self, name: str) -> dict[str, Any]:
        """The JSON object in a file of the model; empty without the file.

        `DataError` if it is something else.
        """
        file = self.model.file(name)
        return read_object(file) if file.is_file() else {}

    @property
    def adapter_config(self) -> dict[str, Any]:
        """PEFT's configuration of an adapter; empty without one."""
        return self.json(ADAPTER_CONFIG)

    @property
    def text_config(self) -> dict[str, Any]:
        """The `config.json` of the root; the part on text if it also reads images."""
        config = ModelFiles(self.root).json(CONFIG)
        text = config.get("text_config")
        return text if isinstance(text, dict) and text else config

    @property
    def context(self) -> int | None:
        """The longest sequence that the model takes, in tokens; None if no file states it."""
        root = self.root
        if root.format == "gguf":
            values = read_header(root.file(str(root.meta["file"]))).values
            context = values.get(f"{values.get('general.architecture')}.context_length")
        else:
            context = self.text_config.get("max_position_embeddings")
        return context if isinstance(context, int) else None

    @property
    def end_tokens(self) -> set[int]:
        """The ids of the tokens that end an answer, by the files of the root."""
        ends: set[int] = set()
        for name in ("generation_config.json", CONFIG):
            ids = ModelFiles(self.root).json(name).get("eos_token_id")
            ends |= {i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)}
        return ends

    @property
    def license(self) -> str | None:
        """The licence of the model, or of the nearest base that has one."""
        base = self.model.refs.get("base")
        if self.model.meta.get("license") or not isinstance(base, Model):
            return self.model.meta.get("license")
        return ModelFiles(base).license


def split_file_name(name: str) -> tuple[str, str]:
    """(model, type of its weights in capitals) by a GGUF's name; an empty type if it has none."""
    stem = Path(name).stem
    match = _QUANTIZATION.search(stem)
    return (stem[: match.start()], match[1].upper()) if match else (stem, "")
