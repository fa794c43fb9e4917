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
        "retrieve.bundle": "finery_retrieve.serve.step:RetrieveBundle",
    }


@hookimpl
def finery_views() -> Mapping[str, str]:
    """The views of indexes, of rows with retrieved documents, and of models that retrieve."""
    return {
        "Index": "finery_retrieve.steps.view:IndexView",
        "Dataset/retrieved": "finery_retrieve.steps.view:RetrievedView",
        "Model/retrieving": "finery_retrieve.steps.view:RetrievingView",
    }


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engines of embedding models, and of models that retrieve."""
    return {
        "embedder": "finery_retrieve.embed.local:LocalEmbedder",
        "embedder-api": "finery_retrieve.embed.remote:RemoteEmbedder",
        "retrieving": "finery_retrieve.steps.engine:RetrievingEngine",
    }


@hookimpl
def finery_servers() -> Mapping[str, str]:
    """The app that answers with sources, for models that retrieve and for their bundles."""
    return {
        "retrieving": "finery_retrieve.serve.reach:serve_model",
        "retrieve": "finery_retrieve.serve.reach:serve_bundle",
    }
