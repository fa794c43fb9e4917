"""Checks if models and indices fit a step, as soon as they are known: in a plan or at its start."""

from collections.abc import Collection

from finery import Index, Model, UsageError

RETRIEVING = "retrieving"
EMBEDDER, EMBEDDER_API = "embedder", "embedder-api"
EMBEDDERS = (EMBEDDER, EMBEDDER_API)
"""Formats of models that embed texts, and answer no prompts."""
RERANKER = "reranker"
TOKENIZERS = ("transformers", "gguf", "adapter")
"""Formats of models that `finery_transformers` loads a tokenizer of."""
COUNTS_TOKENS = "counts_tokens"
"""In the `meta` of an index: whether its chunks have `tokens`."""


def require_answering(model: Model, where: str) -> None:
    """Raise `UsageError` for an embedding model, and for one that retrieves documents itself."""
    format_ = model.meta.get("format")
    if format_ in (*EMBEDDERS, RERANKER):
        raise UsageError(
            f"{'a reranker' if format_ == RERANKER else 'an embedding model'} answers no prompts",
            where=where,
            fix="name a language model; embedding models are for `embedder` of retrieve.index, and "
            "rerankers for retrieve.rerank",
        )
    if format_ == RETRIEVING:
        raise UsageError(
            "a model that retrieves documents itself can't be given others",
            where=where,
            fix="name the model that it is made of",
        )


def require_embedder(model: Model, where: str) -> None:
    """Raise `UsageError` for a model that doesn't embed texts."""
    fix = "name a step of retrieve.embedder, retrieve.wheel, retrieve.api or embed.train"
    require_format(model, where, EMBEDDERS, "can't embed texts", fix)


def require_tokenizer(model: Model, where: str) -> None:
    """Raise `UsageError` for a model without files that have a tokenizer."""
    fix = "name a Hugging Face folder, a GGUF or an adapter, e.g. a step of hub.model"
    require_format(model, where, TOKENIZERS, "has no tokenizer that finery can load", fix)


def require_retrieving(model: Model, where: str) -> None:
    """Raise `UsageError` for a model that retrieves no documents."""
    fix = "name a step of retrieve.model"
    require_format(model, where, (RETRIEVING,), "retrieves no documents", fix)


def require_format(model: Model, where: str, formats: Collection[str], lack: str, fix: str) -> None:
    """Raise `UsageError` for a model that is known to have another format."""
    format_ = model.meta.get("format")
    if format_ is not None and format_ not in formats:
        raise UsageError(f"a model of the format '{format_}' {lack}", where=where, fix=fix)


def require_counts(index: Index, limit: int | None) -> None:
    """Raise `UsageError` for a limit with an index that is known to count no tokens."""
    if limit is not None and index.meta.get(COUNTS_TOKENS) is False:
        raise UsageError(
            f"limit counts tokens, but {index.ref or 'the index'} has no tokenizer",
            where="limit",
            fix=f"add `tokenizer: MODEL` to {index.ref or 'retrieve.index'}, with the model whose "
            "tokens count, e.g. the base of the training",
        )
