"""Retrieval: an index of documents, rows and models that answer from it.

The input is the chunks of documents, and rows with questions. The output is an index that finds
chunks by words, by embeddings, or by both; embedding models and rerankers trained for it; rows
whose prompts contain what was found; models that look up each question before they answer it; and
metrics of both, retrieval and answers.

Other plugins may import `index.retriever`, which searches an index, `index.context`, which puts the
chunks found into a prompt, and `citations`, which reads citations and quotes in answers.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {
        "retrieve.index": "finery_retrieve.steps.index:RetrieveIndex",
        "retrieve.rerank": "finery_retrieve.steps.index:RetrieveRerank",
        "retrieve.rows": "finery_retrieve.steps.model:RetrieveRows",
        "retrieve.model": "finery_retrieve.steps.model:RetrieveModel",
        "retrieve.embedder": "finery_retrieve.embed.steps:RetrieveEmbedder",
        "retrieve.wheel": "finery_retrieve.embed.steps:RetrieveWheel",
        "retrieve.api": "finery_retrieve.embed.steps:RetrieveApi",
        "synth.raft": "finery_retrieve.steps.raft:Raft",
        "eval.retrieval": "finery_retrieve.evaluate.retrieval:Retrieval",
        "eval.grounded": "finery_retrieve.evaluate.grounded:Grounded",
        "retrieve.bundle": "finery_retrieve.serve.bundle:RetrieveBundle",
        "retrieve.check": "finery_retrieve.serve.check:RetrieveCheck",
    }


@hookimpl
def finery_views() -> Mapping[str, str]:
    """The views of indexes, rows with retrieved documents, and models that embed or retrieve."""
    return {
        "Index": "finery_retrieve.steps.view:IndexView",
        "Dataset/retrieved": "finery_retrieve.steps.view:RetrievedView",
        "Model/retrieving": "finery_retrieve.steps.view:RetrievingView",
        "Model/embedder": "finery_retrieve.steps.view:EmbedderView",
        "Model/embedder-api": "finery_retrieve.steps.view:EmbedderView",
        "Model/reranker": "finery_trl.view.model:CurveView",
    }


@hookimpl
def finery_engines() -> Mapping[str, str]:
    """The engines of embedding models, of rerankers, and of models that retrieve."""
    return {
        "embedder": "finery_retrieve.embed.engines:LocalEmbedder",
        "embedder-api": "finery_retrieve.embed.engines:RemoteEmbedder",
        "reranker": "finery_retrieve.embed.engines:LocalReranker",
        "retrieving": "finery_retrieve.steps.model:RetrievingEngine",
    }


@hookimpl
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes of this plugin."""
    from finery_retrieve.notes import KINDS

    return KINDS


@hookimpl
def finery_checks(graph: Any, results: Any) -> Sequence[Any]:
    """Notes on rows that should or shouldn't have retrieved documents, and on their prompts."""
    modules = ("evaluate.grounded", "steps.raft", "steps.model")
    noted = {"finery_synth.steps.from_docs", *(f"finery_retrieve.{name}" for name in modules)}
    if not noted & set(sys.modules):
        return []  # the recipe has no such step
    from finery_retrieve.notes import notes_on

    return notes_on(graph, results)


@hookimpl
def finery_servers() -> Mapping[str, str]:
    """The app that answers with sources, for models that retrieve and for their bundles."""
    return {
        "retrieving": "finery_retrieve.serve.running:serve_model",
        "retrieve": "finery_retrieve.serve.running:serve_bundle",
    }
