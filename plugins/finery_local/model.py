"""`local.model`: a model on this machine's disk."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from finery import DataError, Files, Forecast, Inputs, Job, Model, setting
from finery_local.files import read_object
from finery_local.folder import PICKLED, Folder, FolderStep
from finery_local.gguf_file import external_gguf


class LocalModel(FolderStep, sections=("models",), seeded=False):
    """Take a model from a Hugging Face folder, an adapter folder or a GGUF file on this machine.

    The files stay in place. Their content is hashed, so an edited file makes another model.
    Weights are safetensors or GGUF, never pickled.
    """

    path: Files = setting(
        help="A Hugging Face folder (config.json, safetensors), a PEFT adapter or a .gguf file."
    )
    follow_links: bool = setting(
        False, help="Also take files that links in the folder name elsewhere on this machine."
    )

    def run(self, job: Job) -> Model:
        """Check the files, read their headers and hash them."""
        return self.with_template(self._model(job))

    def light_files(self, job: Job) -> Folder | Path:
        """The files that are named."""
        if self.path.paths[0].suffix == ".gguf":
            return self.path.paths[0]
        trusted, follow = self.trust_remote_code, self.follow_links
        return self._folder().light(self.base, trust_remote_code=trusted, follow=follow)

    def _model(self, job: Job) -> Model:
        ggufs = [path for path in self.path.paths if path.suffix == ".gguf"]
        if len(ggufs) == len(self.path.paths):
            return self._gguf(ggufs, job)
        return self._folder().model(
            job,
            base=self.base,
            trust_remote_code=self.trust_remote_code,
            wanted=self.patterns(),
            about=self.about(),
            follow_links=self.follow_links,
        )

    def _gguf(self, files: Sequence[Path], job: Job) -> Model:
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise DataError(
                f"'{self.path}' names {len(files)} GGUF files: {names}", fix="name one of them"
            )
        if self.base is not None:
            raise DataError(
                f"'{self.path}' is a complete model, so it takes no base", fix="remove base"
            )
        return external_gguf(files[0], job, about=self.about())

    def _folder(self) -> Folder:
        files = [file for path in self.path.paths for file in _files(path)]
        root = _root(self.path.paths)
        names = frozenset(file.relative_to(root).as_posix() for file in files)
        folder = Folder(root=root, names=names, title=f"'{self.path}'")
        if len(files) == 1 and Path(self.path.patterns[0]).name == files[0].name:
            raise _single_file(files[0], is_pickle=bool(folder.matching(PICKLED)))
        return folder

    def forecast(self, inputs: Inputs) -> Forecast:
        """`name`, and `config` or `gguf`: the path of the file."""
        return Forecast(facts=self._facts)

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"name": str(self.path)}
        for path in self.path.paths:
            if path.suffix == ".gguf":
                return {**facts, "gguf": path}
            config = path / "config.json" if path.is_dir() else path
            if config.name == "config.json" and config.is_file():
                with suppress(DataError):  # the build reports a broken file
                    facts["config"] = read_object(config)
                return facts
        return facts


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _root(paths: Sequence[Path]) -> Path:
    """The folder that contains all of `paths`."""
    return Path(os.path.commonpath([p if p.is_dir() else p.parent for p in paths]))


def _single_file(path: Path, *, is_pickle: bool) -> DataError:
    if is_pickle:
        return DataError(
            f"{path.name} is a pickle, and loading it can run any code in it",
            where=str(path),
            fix="convert it to safetensors once (from_pretrained, then save_pretrained), "
            "and name that folder",
        )
    return DataError(
        f"{path.name} alone is not a model", where=str(path), fix=f"name its folder: {path.parent}"
    )
