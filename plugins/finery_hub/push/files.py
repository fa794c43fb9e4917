"""The layout of files in a repository.

The first model with weights for transformers is at the root, where `from_pretrained` looks for it.
The others have a folder each. GGUF files are also at the root, where llama.cpp and Ollama look.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from finery import Artifact, Bundle, Model

README, MARK, MODELFILE = "README.md", "finery.json", "Modelfile"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FOLDER = "adapter"
"""The folder of an adapter whose merged model is at the root."""
_QUANTISED = re.compile(r"(?:^|[.-])((?:i?q\d\w*|b?f16|f32))$", re.IGNORECASE)


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
            whole = [
                File(p.relative_to(merged).as_posix(), p)
                for p in sorted(merged.rglob("*"))
                if p.is_file()
            ]
            yield Placed(
                model.name,
                model,
                ADAPTER_FOLDER,
                [*(file for file in whole if file.path != README), *_plain(model, ADAPTER_FOLDER)],
            )
        else:
            folder = "" if is_first else model.name
            yield Placed(model.name, model, folder, [*_plain(model, folder)])
        is_first = False


def names_of(artifact: Artifact) -> list[str]:
    """The names of an artifact's own and external files."""
    own = (
        artifact.manifest.files
        if artifact.manifest
        else [
            p.relative_to(artifact.path).as_posix() for p in artifact.path.rglob("*") if p.is_file()
        ]
    )
    return sorted({*own, *artifact.external})


def _plain(artifact: Artifact, folder: str) -> Iterator[File]:
    """All files but a model card, with an adapter's base filled in."""
    for name in names_of(artifact):
        path = f"{folder}/{name}" if folder else name
        if name == ADAPTER_CONFIG:
            config = json.loads(artifact.file(ADAPTER_CONFIG).read_text(encoding="utf-8"))
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
    stem = _QUANTISED.search(Path(str(model.meta["file"])).stem)
    return str(model.meta.get("quantization") or (stem[1] if stem else "")).upper()


def _bundle(bundle: Bundle, placed: Sequence[Placed], name: str) -> Placed:
    """A folder for the bundle. For Ollama it is the root, next to the GGUF."""
    folder = bundle.name
    taken = {file.path for other in placed for file in other.files}
    ggufs = [n for n in names_of(bundle) if n.endswith(".gguf")]
    if bundle.meta.get("format") == "ollama" and len(ggufs) == 1 and MODELFILE not in taken:
        text = bundle.file(MODELFILE).read_text(encoding="utf-8")
        line = f"\nFROM ./{ggufs[0]}\n"
        if line in text:
            gguf = ggufs[0]
            pushed = next(
                (f for other in placed for f in other.files if _same(other, bundle, gguf)), None
            )
            kind = _QUANTISED.search(Path(gguf).stem)
            path = pushed.path if pushed else f"{name}{f'-{kind[1].upper()}' if kind else ''}.gguf"
            files = [] if pushed else [File(path, bundle.file(gguf))]
            modelfile = File(MODELFILE, text.replace(line, f"\nFROM ./{path}\n").encode())
            if pushed or path not in taken:
                return Placed(bundle.name, bundle, "", [*files, modelfile])
    return Placed(folder, bundle, folder, [*_plain(bundle, folder)])


def _same(other: Placed, bundle: Bundle, gguf: str) -> bool:
    """Whether the GGUF of a bundle is that of a model."""
    mine, model = bundle.manifest, other.artifact
    theirs = model.manifest
    if mine is None or theirs is None or model.meta.get("format") != "gguf":
        return False
    return theirs.files.get(str(model.meta["file"])) == mine.files[gguf]
