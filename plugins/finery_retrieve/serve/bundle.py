"""`retrieve.bundle`: a folder that answers questions about documents, with their sources."""

from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from finery import Bundle, Index, Job, Model, Step, StepError, UsageError, setting, takes
from finery_gguf.llama import PACKAGE, Gguf
from finery_retrieve.formats import require_retrieving
from finery_retrieve.index.chunks import CHUNKS_FILE, OFFSETS_FILE
from finery_retrieve.index.chunks import FORMAT as INDEX_FORMAT
from finery_retrieve.index.retriever import EMBEDDINGS_FILE
from finery_retrieve.index.words import FOLDER
from finery_serve.guide import (
    NAME,
    files_of,
    fill,
    model_facts,
    read_template,
    requirement,
    write_texts,
)
from finery_serve.llama import SLOTS, Options, options_for

SETTINGS, TEMPLATE, INDEX, EMBEDDER = "settings.json", "prompt.jinja", "index", "embedder"
RERANKER = "reranker"
CHAT_TEMPLATE = "chat_template.jinja"
MAX_TOKENS = 512
"""Tokens of an answer, if neither a request nor the recipe says."""
EMBEDDER_FACTS = (
    "format", "embedding", "name", "server", "dimensions", "question_prefix", "document_prefix",
    "longest",
)  # fmt: skip
"""Facts of an embedding model or a reranker that its engine needs."""
_EXPORT = (
    "export that with gguf.export, and name a retrieve.model over the export with the same settings"
)
_FORMAT_FIXES = {
    "prompted": "name a retrieve.model over the model itself, whose `prompt` has the system prompt"
}
"""Format of the model that answers → what to do."""


class Local(msgspec.Struct, frozen=True, omit_defaults=True, tag="gguf", tag_field="use"):
    """A GGUF that llama.cpp's server runs. chat_template: a file that replaces its own."""

    file: str
    context: int
    slots: int
    parameters: dict[str, Any]
    chat_template: str | None = None


class Remote(msgspec.Struct, frozen=True, omit_defaults=True, tag="api", tag_field="use"):
    """A model behind an API. api_key: the environment variable with the key."""

    name: str
    base_url: str
    api_key: str | None
    parameters: dict[str, Any]
    extra: dict[str, Any] = {}


class PromptFacts(msgspec.Struct, frozen=True):
    """The variables of the prompt template, apart from the chunks."""

    unknown: str
    limit: int | None


class IndexFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """The facts about the index that a search needs."""

    method: str
    bm25: dict[str, Any] = {}
    whole_dimensions: int | None = None
    candidates: int | None = None


class Settings(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`settings.json`. finery: the version that wrote it."""

    format: Literal[2]
    finery: str
    name: str
    k: int
    index: IndexFacts
    prompt: PromptFacts
    model: Local | Remote
    embedder: dict[str, Any] | None = None
    embedder_runtime: dict[str, Any] = {}
    reranker: dict[str, Any] | None = None


class RetrievalParts(NamedTuple):
    """The parts of a model that retrieves: the index of documents, and the model that answers."""

    documents: Index
    model: Model


def parts_of(model: Model) -> RetrievalParts:
    """The parts of a model of `retrieve.model`.

    `StepError` for any other, and for one whose model only finery can run.
    """
    if model.format != "retrieving":
        raise StepError(
            f"the model has the format '{model.format}', so it retrieves no documents",
            fix="name a step of retrieve.model",
        )
    index, under = model.refs["index"], model.refs["model"]
    assert isinstance(index, Index)
    assert isinstance(under, Model)
    if under.format not in ("gguf", "api"):
        raise StepError(
            f"retrieve.model has a model of the format '{under.format}', which only finery can run",
            fix=_FORMAT_FIXES.get(under.format, _EXPORT) + ", or talk to it with `finery chat`",
        )
    return RetrievalParts(index, under)


def part_of(index: Index, role: str) -> Model | None:
    """The embedding model or the reranker of an index; None if it has none."""
    part = index.refs.get(role)
    return part if isinstance(part, Model) else None


def gguf_file(model: Model) -> Path:
    """The file of a GGUF."""
    return model.file(str(model.meta["file"]))


def gguf_options(
    model: Model, name: str, context: int | None = None, slots: int = SLOTS
) -> Options:
    """How llama.cpp's server runs a GGUF."""
    return options_for(Gguf(gguf_file(model), vocab_only=True), model, name, context, slots)


def parameters(max_tokens: int) -> dict[str, Any]:
    """The defaults for requests."""
    return {"max_tokens": max_tokens, "temperature": 0}


def remote(model: Model, max_tokens: int) -> Remote:
    """How to reach a model of the format `api`."""
    return Remote(
        name=model.meta["name"], base_url=model.meta["server"], api_key=model.runtime["api_key"],
        parameters=parameters(max_tokens), extra=model.meta.get("extra", {}),
    )  # fmt: skip


def settings_of(model: Model, name: str, reached: Local | Remote) -> Settings:
    """The settings of a bundle. `StepError` for an embedding model that only finery can run."""
    index = parts_of(model).documents
    embedder, reranker = part_of(index, EMBEDDER), part_of(index, RERANKER)
    if embedder is not None and embedder.format not in ("embedder", "embedder-api"):
        raise StepError(
            f"the index has an embedding model of the format '{embedder.format}', which can't be "
            "put into a bundle",
            fix="index the chunks with one of retrieve.embedder, retrieve.wheel or retrieve.api",
        )
    prompt = model.meta["prompt"]
    return Settings(
        format=2,
        finery=version("finery"),
        name=name,
        k=model.meta["k"],
        index=msgspec.convert(_without_none(index.meta, IndexFacts.__struct_fields__), IndexFacts),
        prompt=PromptFacts(prompt["unknown"], prompt["limit"]),
        model=reached,
        embedder=None if embedder is None else _without_none(embedder.meta, EMBEDDER_FACTS),
        embedder_runtime={} if embedder is None else _without_none(embedder.runtime, ("api_key",)),
        reranker=None if reranker is None else _without_none(reranker.meta, EMBEDDER_FACTS),
    )


def _without_none(facts: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: facts[name] for name in names if name in facts}


def read_settings(folder: Path) -> Settings:
    """The settings of the bundle in a folder. `UsageError` if they can't be used."""
    try:
        return msgspec.json.decode((folder / SETTINGS).read_bytes(), type=Settings)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the settings of the bundle can't be read: {error}", where=str(folder / SETTINGS),
            fix="copy the bundle again, or build it again with this version of finery",
        ) from error  # fmt: skip


def bundled_model(folder: Path, settings: Settings) -> Model:
    """The model that retrieves, as the recipe had it; what answers isn't in its `refs`."""
    index = Index(
        folder / INDEX, meta={"format": INDEX_FORMAT, **msgspec.to_builtins(settings.index)}
    )
    if settings.embedder is not None:
        index.refs["embedder"] = Model(
            folder / EMBEDDER, meta=settings.embedder, runtime=settings.embedder_runtime
        )
    if settings.reranker is not None:
        index.refs["reranker"] = Model(folder / RERANKER, meta=settings.reranker)
    prompt = {
        "template": (folder / TEMPLATE).read_text(encoding="utf-8"),
        **msgspec.to_builtins(settings.prompt),
    }
    meta = {"format": "retrieving", "k": settings.k, "prompt": prompt}
    return Model(folder, meta=meta, refs={"index": index})


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
            reached = Local(
                options.model, options.context, options.slots, parameters(self.max_tokens),
                CHAT_TEMPLATE if options.template is not None else None,
            )  # fmt: skip
            texts |= {CHAT_TEMPLATE: options.template} if options.template is not None else {}
        else:
            for name in ("context", "slots"):
                if getattr(self, name) != type(self).__finery_fields__[name].default:
                    raise UsageError(
                        f"{name} is for a GGUF, and the model is behind an API",
                        where=name,
                        fix=f"remove {name}",
                    )
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
    files = {f"{INDEX}/{n}": p for n, p in files_of(index).items() if n.split("/")[0] in searched}
    for role in (EMBEDDER, RERANKER):
        part = part_of(index, role)
        if part is not None and part.format != "embedder-api":
            files |= {f"{role}/{name}": path for name, path in files_of(part).items()}
    return files


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
    lines = [f"finery[{','.join(sorted(extras))}]=={settings.finery.partition('+')[0]}"]
    for name in pinned:
        with suppress(PackageNotFoundError):
            lines.append(requirement(name))
    return "\n".join(lines) + "\n"
