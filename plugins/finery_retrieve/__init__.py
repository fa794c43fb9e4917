"""Retrieval: an index of documents, rows and models that answer from it.

The input is the chunks of documents, and rows with questions. The output is an index that finds
chunks by words, by embeddings, or by both; rows whose prompts contain what was found; and models
that look up each question before they answer it.

Other plugins may import `index.retriever`, which searches an index, and `index.context`, which puts
the chunks found into a prompt.
"""

from collections.abc import Mapping

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {
        "retrieve.index": "finery_retrieve.steps.index:RetrieveIndex",
        "retrieve.rows": "finery_retrieve.steps.rows:RetrieveRows",
        "retrieve.model": "finery_retrieve.steps.model:RetrieveModel",
        "retrieve.embedder": "finery_retrieve.embed.folder:RetrieveEmbedder",
        "retrieve.wheel": "finery_retrieve.embed.wheel:RetrieveWheel",
        "retrieve.api": "finery_retrieve.embed.api:RetrieveApi",
        "synth.raft": "finery_retrieve.raft.step:Raft",
        "eval.retrieval": "finery_retrieve.evaluate.retrieval.step:Retrieval",
        "eval.grounded": "finery_retrieve.evaluate.grounded.step:Grounded",
    }


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engines of embedding models, and of models that retrieve."""
    return {
        "embedder": "finery_retrieve.embed.local:LocalEmbedder",
        "embedder-api": "finery_retrieve.embed.remote:RemoteEmbedder",
        "retrieving": "finery_retrieve.steps.engine:RetrievingEngine",
    }
