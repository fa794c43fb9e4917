"""`hub.model`: a model from the Hugging Face hub, pinned to a commit."""

from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from finery import DataError, Forecast, Inputs, Job, Model, setting
from finery_hub.client import COMMIT, download, names_at, resolve, token_of
from finery_local.folder import HEAVY, LOADED, PICKLED, README, WEIGHT_FILES, Folder, FolderStep
from finery_local.gguf_file import external_gguf


class HubModel(
    FolderStep,
    sections=("models",),
    seeded=False,
    installs={"huggingface-hub": "finery[hub]"},
):
    """Take a model, or an adapter, from the Hugging Face hub.

    A branch or tag is resolved once, to a commit that `recipe.lock` keeps, so changes on the hub
    don't change the recipe's model. The files stay in the hub's own cache, which other programs
    share. Weights are safetensors or GGUF, never pickled.
    """

    repo: str = setting(
        pattern=r"^([\w.-]+/)?[\w.-]+$", help="The repository, e.g. `Qwen/Qwen3-4B`."
    )
    revision: str = setting("main", min_length=1, help="A branch, a tag, or a commit (40 digits).")
    files: list[str] | None = setting(
        None,
        help="Patterns of the files to take. Default: weights, configuration, tokenizer and chat "
        "template that transformers loads.",
    )
    file: str | None = setting(
        None, pattern=r"\.gguf$", help="The file to take from a repository of GGUF files."
    )

    def sketch(self, job: Job) -> Model | None:
        """The tokenizer, the chat template and the configuration.

        None for a GGUF file, which holds all of that itself.
        """
        if self.file is not None:
            return None
        folder = self.fetched(self.patterns(), job, unwanted=HEAVY)
        if not folder.is_model:
            return None  # the build's error explains it better
        trusted, about = self.trust_remote_code, self.about()
        model = folder.sketch(job.out, base=self.base, trust_remote_code=trusted, about=about)
        return self.with_template(model)

    def run(self, job: Job) -> Model:
        """Fetch files that aren't in the cache, check the model and hash it."""
        model = self.with_template(self._model(job))
        # Known, but no part of the identity: a commit that changes a README is the same model.
        model.runtime["revision"] = self._commit(job)
        return model

    def _model(self, job: Job) -> Model:
        if self.file is not None:
            return self._gguf(self.file, job)
        folder = self.fetched(self.patterns(), job)
        if self.chat_template is None:
            _log_other_template(folder, job)
        if not any(name.endswith(".safetensors") for name in folder.names):
            raise self._without_weights(folder.root, job)
        return folder.model(
            job,
            base=self.base,
            trust_remote_code=self.trust_remote_code,
            wanted=self.patterns(),
            about=self.about(),
        )

    def light_files(self, job: Job) -> Folder | Path:
        """What is fetched: no weights, unless they are in a GGUF file."""
        if self.file is not None:
            return self.fetched([escape(self.file)], job).root / self.file
        folder = self.fetched(self.patterns(), job, unwanted=HEAVY)
        return folder.light(self.base, trust_remote_code=self.trust_remote_code)

    def about(self) -> dict[str, Any]:
        """What `Model.meta` says about the settings, and the repository."""
        return {"repo": self.repo, **super().about()}

    def _gguf(self, file: str, job: Job) -> Model:
        if self.files is not None or self.base is not None:
            other = "files" if self.files is not None else "base"
            raise DataError(
                f"file names a whole model, so {other} has no effect", fix=f"remove {other}"
            )
        folder = self.fetched([escape(file)], job)
        if file not in folder.names:
            ggufs = sorted(name for name in self._everything(job) if name.endswith(".gguf"))
            fix = (
                f"one of: {', '.join(ggufs)}"
                if ggufs
                else "remove file: the repository holds no GGUF file"
            )
            raise DataError(f"{self.repo} has no file '{file}'", fix=fix)
        return external_gguf(folder.root / file, job, about=self.about())

    def _without_weights(self, root: Path, job: Job) -> DataError:
        everything = self._everything(job)
        if self.files is not None and everything & WEIGHT_FILES:
            return DataError(
                f"`files` excludes the weights of {self.repo}",
                fix=f"add their pattern; the default is {', '.join(LOADED)}",
            )
        return Folder(root=root, names=everything, title=self.repo).no_weights()

    def _everything(self, job: Job) -> frozenset[str]:
        """The names of all files of the repository, fetched or not."""
        return frozenset(names_at(self.repo, self._commit(job), token_of(job)))

    def _commit(self, job: Job) -> str:
        return job.pinned or self.revision

    def patterns(self) -> Sequence[str]:
        """Patterns of the files to take."""
        return self.files or super().patterns()

    def fetched(self, wanted: Sequence[str], job: Job, unwanted: Sequence[str] = PICKLED) -> Folder:
        """The files that match `wanted`, and the model card, which names the licence."""
        wanted = [*wanted, README]
        commit, token = self._commit(job), token_of(job)
        root = download(self.repo, commit, job, wanted=wanted, unwanted=unwanted, token=token)
        return _snapshot(root, wanted, self.repo)

    def floating_name(self) -> str | None:
        """The branch or tag to pin; a commit needs no pin."""
        return None if COMMIT.fullmatch(self.revision) else f"hub:{self.repo}@{self.revision}"

    def pin_name(self, folder: Path) -> str:
        """The commit that the branch or tag currently names."""
        return resolve(self.repo, self.revision)

    def forecast(self, inputs: Inputs) -> Forecast:
        """(repository, revision) on the hub, and the names of repository and file."""
        name = "/".join(filter(None, [self.repo, self.file]))
        return Forecast(facts={"name": name, "hub": (self.repo, self.revision)})


def _log_other_template(folder: Folder, job: Job) -> None:
    """Log that the previous commit in the hub's cache has another chat template.

    So `--update-lock` doesn't pass unnoticed: models trained with the earlier one must be trained
    again, and prompts outside finery must change too.
    """
    commits = [path for path in folder.root.parent.iterdir() if path != folder.root]
    if not commits:
        return
    previous = max(commits, key=lambda path: path.stat().st_mtime)
    earlier = _snapshot(previous, ["*"], folder.title)
    try:
        template = earlier.chat_template()
    except DataError:  # another program may have left it incomplete
        return
    if template is not None and template != folder.chat_template():
        job.log(
            f"the chat template isn't the one of commit {previous.name[:7]}, which was fetched "
            "earlier: the model is prompted differently since then"
        )


def _snapshot(root: Path, wanted: Sequence[str], title: str) -> Folder:
    """The wanted files of the snapshot, into which other programs may have fetched more."""
    names = frozenset(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    folder = Folder(root, names, title)
    return Folder(root, frozenset(folder.matching(wanted)) - {*folder.matching(PICKLED)}, title)
