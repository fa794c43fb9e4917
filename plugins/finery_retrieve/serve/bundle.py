"""`retrieve.bundle`: a folder that answers questions about documents, with their sources."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from finery import Artifact, Bundle, Index, Job, Model, Step, setting, takes
from finery_gguf.llama import PACKAGE
from finery_retrieve.formats import require_retrieving
from finery_retrieve.index.chunks import CHUNKS_FILE, OFFSETS_FILE
from finery_retrieve.index.retriever import EMBEDDINGS_FILE
from finery_retrieve.index.words import FOLDER
from finery_retrieve.serve.settings import (
    CHAT_TEMPLATE,
    EMBEDDER,
    INDEX,
    MAX_TOKENS,
    RERANKER,
    SETTINGS,
    TEMPLATE,
    Local,
    Remote,
    Settings,
    embedder_of,
    gguf_file,
    gguf_options,
    parameters,
    parts_of,
    remote,
    reranker_of,
    settings_of,
)
from finery_serve.guide import fill, model_facts, read_template, write_texts
from finery_serve.llama import SLOTS

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$"
LEXICAL, LOCAL, LLAMA = ("bm25s", "PyStemmer"), ("torch", "transformers"), ("xllamacpp",)
"""Packages that decide what is found and answered, so a bundle names their versions."""


class RetrieveBundle(
    Step,
    seeded=False,
    sections=("export",),
    packages=(PACKAGE, "finery", *LEXICAL, *LOCAL, *LLAMA),
):
    """Write a folder that answers questions about documents and shows the sources.

    It has the index, the prompt template, `run.sh`, `requirements.txt` with the versions of finery
    and its packages, and a README for the person who gets it. `run.sh` starts the app of
    `finery serve`: a page and an OpenAI-compatible API. A GGUF is in the folder, too, and
    llama.cpp's server runs it; a model behind an API is called over the network.

    Raises StepError for a model that isn't one of `retrieve.model`, or is neither a GGUF nor behind
    an API.
    """

    model: Model = takes(help="A model of `retrieve.model`, over a GGUF or a model behind an API.")
    name: str = setting(
        pattern=NAME,
        help="The title of the page, and the model's name in the API: up to 100 letters, digits, "
        "and the characters _ . : / -, without spaces. The first is a letter or a digit.",
    )
    context: int | None = setting(
        None, ge=64,
        help="Longest prompt with its answer, in tokens, for a GGUF. [default: the model's, at "
        "most 8192]",
    )  # fmt: skip
    slots: int = setting(SLOTS, ge=1, help="Requests that a GGUF answers at once.")
    max_tokens: int = setting(
        MAX_TOKENS, ge=1, help="Longest answer in tokens, for requests that don't set a limit."
    )

    def check(self) -> None:
        """Raise `UsageError` for a model that retrieves no documents."""
        require_retrieving(self.model, "model")

    def run(self, job: Job) -> Bundle:
        """Write the files."""
        index, under = parts_of(self.model)
        texts = dict[str, str]()
        reached: Local | Remote
        if under.format == "gguf":
            options = gguf_options(under, self.name, self.context, self.slots)
            has_template = options.template is not None
            reached = Local(
                options.model, options.context, options.slots, parameters(self.max_tokens),
                CHAT_TEMPLATE if has_template else None,
            )  # fmt: skip
            texts |= {CHAT_TEMPLATE: options.template} if options.template is not None else {}
        else:
            reached = remote(under, self.max_tokens)
        settings = settings_of(self.model, self.name, reached)
        texts |= {
            SETTINGS: msgspec.json.format(msgspec.json.encode(settings), indent=2).decode() + "\n",
            TEMPLATE: self.model.meta["prompt"]["template"],
            "requirements.txt": requirements(settings),
            "run.sh": read_template("finery_retrieve.serve/run.sh"),
            "README.md": fill(
                "finery_retrieve.serve/readme.md.jinja",
                title=self.name,
                settings=settings,
                is_local=isinstance(reached, Local),
                facts=model_facts(under.meta),
                chunks=int(index.meta["chunks"]),
            ),
        }
        write_texts(job.out, texts)
        for name, source in _data_files(index).items():
            job.copy(source, name)
        if isinstance(reached, Local):
            job.progress(0, 1, f"copying {reached.file}")
            job.copy(gguf_file(under), reached.file)
        return Bundle(job.out, meta={"format": "retrieve", "name": self.name, "run": "sh run.sh"})


def _data_files(index: Index) -> dict[str, Path]:
    """Name in the bundle → file of the index that a search reads, or of its embedding model."""
    searched = (CHUNKS_FILE, OFFSETS_FILE, FOLDER, EMBEDDINGS_FILE)
    files = {f"{INDEX}/{n}": p for n, p in _files(index).items() if n.split("/")[0] in searched}
    embedder = embedder_of(index)
    if embedder is not None and embedder.format == "embedder":
        files |= {f"{EMBEDDER}/{name}": path for name, path in _files(embedder).items()}
    if (reranker := reranker_of(index)) is not None:
        files |= {f"{RERANKER}/{name}": path for name, path in _files(reranker).items()}
    return files


def _files(artifact: Artifact) -> dict[str, Path]:
    paths = (path for path in sorted(artifact.path.rglob("*")) if path.is_file())
    inside = {path.relative_to(artifact.path).as_posix(): path for path in paths}
    return inside | artifact.external


def requirements(settings: Settings) -> str:
    """`requirements.txt`: finery with what the app needs, and the evaluated versions."""
    extras, pinned = ["retrieve"], [*LEXICAL]
    if isinstance(settings.model, Local):
        extras.append("llama")
        pinned += LLAMA
    local = (settings.embedder or {}).get("format") == "embedder"
    if local or settings.reranker is not None:
        pinned += LOCAL
    if settings.embedder is not None and not local:
        extras.append("openai")
    lines = [f"finery[{','.join(sorted(extras))}]=={_public(settings.finery)}"]
    for name in pinned:
        with suppress(PackageNotFoundError):
            lines.append(f"{name}=={_public(version(name))}")
    return "\n".join(lines) + "\n"


def _public(version: str) -> str:
    """A build of torch for one kind of GPU has a local version, which others can't install."""
    return version.partition("+")[0]
