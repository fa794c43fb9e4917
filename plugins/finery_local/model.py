"""`local.model`: a model on this machine's disk."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finery import DataError, FileOrName, Files, Job, Model, Step, setting, takes
from finery_local.folder import (
    PICKLED,
    Folder,
    folder_model,
    matches,
)
from finery_local.gguf_file import external_gguf
from finery_local.template import (
    KWARGS_HELP,
    TEMPLATE_HELP,
    TOOLS_AS_HELP,
    ToolsAs,
    check_arguments,
    check_template,
    template_facts,
    template_packages,
    with_template,
)


class LocalModel(
    Step,
    sections=("models",),
    seeded=False,
    forecast="finery_local.forecast:ModelForecast",
):
    """Take a model from a Hugging Face folder, an adapter folder or a GGUF file on this machine.

    The files stay in place. Their content is hashed, so an edited file makes another model.
    Weights are safetensors or GGUF, never pickled.
    """

    base: Model | None = takes(None, help="The base model, if the folder is an adapter.")
    path: Files = setting(
        help="A Hugging Face folder (config.json, safetensors), a PEFT adapter or a .gguf file."
    )
    trust_remote_code: bool = setting(
        False, help="Also take the model's own Python code, which runs when the model is loaded."
    )
    follow_links: bool = setting(
        False, help="Also take files that links in the folder name elsewhere on this machine."
    )
    chat_template: FileOrName | None = setting(None, help=TEMPLATE_HELP)
    chat_template_kwargs: dict[str, Any] = setting({}, help=KWARGS_HELP)
    tools_as: ToolsAs = setting("template", help=TOOLS_AS_HELP)

    def check(self) -> None:
        """Raise `UsageError` for chat template arguments that can't be set."""
        check_arguments(self.chat_template_kwargs)

    def check_files(self) -> None:
        """Raise `UsageError` for the name of a chat template that doesn't exist."""
        check_template(self.chat_template)

    def key_packages(self) -> tuple[str, ...]:
        """The package that a template named in the recipe comes from."""
        return (*super().key_packages(), *template_packages(self.chat_template))

    def static_meta(self) -> dict[str, Any]:
        """The format `adapter` for a step with a base."""
        return {} if self.base is None else {"format": "adapter"}

    def run(self, job: Job) -> Model:
        """Check the files, read their headers and hash them."""
        return with_template(self._model(job), self.chat_template)

    def _model(self, job: Job) -> Model:
        ggufs = [path for path in self.path.paths if path.suffix == ".gguf"]
        if len(ggufs) == len(self.path.paths):
            return self._gguf(ggufs, job)
        return folder_model(
            self._folder(),
            job,
            base=self.base,
            trust_remote_code=self.trust_remote_code,
            about=template_facts(self.chat_template_kwargs, self.tools_as),
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
        return external_gguf(
            files[0], job, about=template_facts(self.chat_template_kwargs, self.tools_as)
        )

    def _folder(self) -> Folder:
        files = [file for path in self.path.paths for file in _files(path)]
        root = _root(self.path.paths)
        if len(files) == 1 and Path(self.path.patterns[0]).name == files[0].name:
            raise _single_file(files[0])
        names = frozenset(file.relative_to(root).as_posix() for file in files)
        return Folder(root=root, names=names, title=f"'{self.path}'")


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _root(paths: Sequence[Path]) -> Path:
    """The folder that contains all of `paths`."""
    return Path(os.path.commonpath([p if p.is_dir() else p.parent for p in paths]))


def _single_file(path: Path) -> DataError:
    if matches(path.name, PICKLED):
        return DataError(
            f"{path.name} is a pickle, and loading it can run any code in it",
            where=str(path),
            fix="convert it to safetensors once (from_pretrained, then save_pretrained), "
            "and name that folder",
        )
    return DataError(
        f"{path.name} alone is not a model", where=str(path), fix=f"name its folder: {path.parent}"
    )
