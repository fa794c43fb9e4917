"""The layout of files in a repository.

The first model with weights for transformers is at the root, where `from_pretrained` looks for it.
The others have a folder each. GGUF files are also at the root, where llama.cpp and Ollama look.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from finery import Artifact, Bundle, Model
from finery_local.facts import ADAPTER_CONFIG, ModelFiles, file_names, split_file_name

README, MARK, MODELFILE = "README.md", "finery.json", "Modelfile"
ADAPTER_FOLDER = "adapter"
"""The folder of an adapter whose merged model is at the root."""


class File(NamedTuple):
    """A file to push. path: in the repository. source: the file on disk, or its content."""

    path: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


class Placed(NamedTuple):
    """A model or bundle, its folder in the repository (empty: the root), and its files."""

    name: str
    artifact: Artifact
    folder: str
    files: list[File]


def place(
    models: Sequence[Model], bundles: Sequence[Bundle], repo: str, merged: Path | None
) -> list[Placed]:
    """The places of the files of models and bundles.

    repo: owner/name. merged: the folder of the first adapter, merged into its base; it goes to the
    root.
    """
    placed = [*_models(models, merged), *_ggufs(models, repo.partition("/")[2])]
    placed.sort(key=lambda p: [m.name for m in models].index(p.name))
    for bundle in bundles:
        placed.append(_bundle(bundle, placed, repo.partition("/")[2]))
    return placed


def _models(models: Sequence[Model], merged: Path | None) -> Iterator[Placed]:
    is_first = True
    for model in models:
        if model.format == "gguf":
            continue
        if merged is not None and model.format == "adapter" and is_first:
            paths = [path for path in sorted(merged.rglob("*")) if path.is_file()]
            whole = [File(path.relative_to(merged).as_posix(), path) for path in paths]
            files = [
                *(file for file in whole if file.path != README),
                *_plain(model, ADAPTER_FOLDER),
            ]
            yield Placed(model.name, model, ADAPTER_FOLDER, files)
        else:
            folder = "" if is_first else model.name
            yield Placed(model.name, model, folder, [*_plain(model, folder)])
        is_first = False


def _plain(artifact: Artifact, folder: str) -> Iterator[File]:
    """All files but a model card, with an adapter's base filled in."""
    for name in file_names(artifact):
        path = f"{folder}/{name}" if folder else name
        if name == ADAPTER_CONFIG and isinstance(artifact, Model):
            config = ModelFiles(artifact).adapter_config
            base = artifact.refs.get("base")
            if base is not None and base.meta.get("repo"):
                config["base_model_name_or_path"] = base.meta["repo"]
                config["revision"] = base.runtime.get("revision")
            yield File(path, (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode())
        elif name != README or isinstance(artifact, Bundle):
            yield File(path, artifact.file(name))


def _ggufs(models: Sequence[Model], name: str) -> Iterator[Placed]:
    ggufs = [model for model in models if model.format == "gguf"]
    kinds = Counter(_kind(model) for model in ggufs)
    for model in ggufs:
        more = f"-{model.name.partition('.')[0]}" if kinds[_kind(model)] > 1 else ""
        kind = f"-{_kind(model)}" if _kind(model) else ""
        source = model.file(str(model.meta["file"]))
        yield Placed(model.name, model, "", [File(f"{name}{more}{kind}.gguf", source)])


def _kind(model: Model) -> str:
    """The type of a GGUF's weights in capitals, as file names on the hub have it."""
    _, kind = split_file_name(str(model.meta["file"]))
    return str(model.meta.get("quantization") or kind).upper()


def _bundle(bundle: Bundle, placed: Sequence[Placed], name: str) -> Placed:
    """A folder for the bundle. For Ollama it is the root, next to the GGUF."""
    taken = {file.path for other in placed for file in other.files}
    ggufs = [n for n in file_names(bundle) if n.endswith(".gguf")]
    if bundle.meta.get("format") == "ollama" and len(ggufs) == 1 and MODELFILE not in taken:
        text = bundle.file(MODELFILE).read_text(encoding="utf-8")
        line = f"\nFROM ./{ggufs[0]}\n"
        if line in text:
            gguf = ggufs[0]
            pushed = next(
                (f for other in placed for f in other.files if _same(other, bundle, gguf)), None
            )
            _, kind = split_file_name(gguf)
            path = pushed.path if pushed else f"{name}{f'-{kind}' if kind else ''}.gguf"
            files = [] if pushed else [File(path, bundle.file(gguf))]
            modelfile = File(MODELFILE, text.replace(line, f"\nFROM ./{path}\n").encode())
            if pushed or path not in taken:
                return Placed(bundle.name, bundle, "", [*files, modelfile])
    return Placed(bundle.name, bundle, bundle.name, [*_plain(bundle, bundle.name)])


def _same(other: Placed, bundle: Bundle, gguf: str) -> bool:
    """Whether the GGUF of a bundle is that of a model."""
    mine, model = bundle.manifest, other.artifact
    theirs = model.manifest
    if mine is None or theirs is None or model.meta.get("format") != "gguf":
        return False
    return theirs.files.get(str(model.meta["file"])) == mine.files[gguf]
