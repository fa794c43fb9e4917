"""The settings of a bundle: how it retrieves and prompts, and which server answers."""

from pathlib import Path
from typing import Any, NamedTuple

from finery import Artifact, Index, Model, StepError
from finery_gguf.llama import Gguf
from finery_retrieve.serve.app.bundle import FORMAT
from finery_serve.options import CONTEXT, Options, written
from finery_serve.templates import served_template

CHAT_TEMPLATE = "chat_template.jinja"
MAX_TOKENS = 512
"""Tokens of an answer, if neither a request nor the recipe says."""
_EXPORT = (
    "export that with gguf.export, and name a retrieve.model over the export with the same settings"
)
_WAYS_OUT = {
    "prompted": "name a retrieve.model over the model itself, whose `prompt` has the system prompt"
}
"""Format of the model that answers → what to do."""


class Parts(NamedTuple):
    """The parts of a model that retrieves: the index of documents, and the model that answers."""

    documents: Index
    model: Model


def parts_of(model: Model) -> Parts:
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
            fix=_WAYS_OUT.get(under.format, _EXPORT) + ", or talk to it with `finery chat`",
        )
    return Parts(index, under)


def gguf_options(model: Model, name: str, context: int | None, slots: int) -> Options:
    """How llama.cpp's server runs a GGUF: with the prompts of its training, and greedily."""
    gguf = Gguf(gguf_file(model), vocab_only=True)
    return Options(
        model=gguf_file(model).name, name=name, slots=slots,
        context=context or min(CONTEXT, gguf.n_context or CONTEXT),
        template=served_template(gguf, model),
    )  # fmt: skip


def gguf_file(model: Model) -> Path:
    """The file of a GGUF."""
    return model.file(str(model.meta["file"]))


def settings_of(
    model: Model, name: str, options: Options | None, max_tokens: int
) -> dict[str, Any]:
    """The content of `settings.json`. options: of llama.cpp's server; None: an API answers."""
    under = parts_of(model).model
    reached: dict[str, Any] = {"name": name}
    if options is None:
        reached = {"name": under.meta["name"], "base_url": under.meta["server"]}
        reached |= {"api_key": under.runtime["api_key"], "extra": under.meta.get("extra", {})}
    else:
        file = CHAT_TEMPLATE if options.template is not None else None
        reached["arguments"] = written(options, file)
    reached["parameters"] = {"max_tokens": max_tokens, "temperature": 0}
    return {"format": FORMAT, "name": name, **retrieval_of(model), "model": reached}


def retrieval_of(model: Model) -> dict[str, Any]:
    """How it retrieves and prompts: `k`, and the facts of its index and of its prompt."""
    index = parts_of(model).documents
    names = [name for name in ("method", "bm25") if name in index.meta]
    facts: dict[str, Any] = {name: index.meta[name] for name in names}
    if (embedder := embedder_of(index)) is not None:
        facts["embedder"] = _embedding(embedder)
    prompt = {name: model.meta["prompt"][name] for name in ("unknown", "limit")}
    return {"k": model.meta["k"], "index": facts, "prompt": prompt}


def embedder_of(index: Artifact) -> Model | None:
    """The embedding model of an index; None for one that is searched by words alone."""
    embedder = index.refs.get("embedder")
    return embedder if isinstance(embedder, Model) else None


def _embedding(model: Model) -> dict[str, Any]:
    """How questions are embedded. `StepError` for a model that only finery can run."""
    meta = model.meta
    if model.format == "embedder":
        return dict(meta["embedding"])
    if model.format != "embedder-api":
        raise StepError(
            f"the index has an embedding model of the format '{model.format}', which only finery "
            "can run",
            fix="index the chunks with one of retrieve.embedder, retrieve.wheel or retrieve.api",
        )
    more = {"dimensions": meta["dimensions"]} if "dimensions" in meta else {}
    return {
        "name": meta["name"], "base_url": meta["server"], "api_key": model.runtime["api_key"],
        "question_prefix": meta["question_prefix"], "more": more,
    }  # fmt: skip
