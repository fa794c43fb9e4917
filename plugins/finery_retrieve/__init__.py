"""Retrieval: an index of documents, rows and models that answer from it.

The input is the chunks of documents, and rows with questions. The output is an index that finds
chunks by words, by embeddings, or by both; rows whose prompts contain what was found; models that
look up each question before they answer it; and metrics of both, retrieval and answers.

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
        "retrieve.rows": "finery_retrieve.steps.rows:RetrieveRows",
        "retrieve.model": "finery_retrieve.steps.model:RetrieveModel",
        "retrieve.embedder": "finery_retrieve.embed.folder:RetrieveEmbedder",
        "retrieve.wheel": "finery_retrieve.embed.wheel:RetrieveWheel",
        "retrieve.api": "finery_retrieve.embed.api:RetrieveApi",
        "synth.raft": "finery_retrieve.raft.step:Raft",
        "eval.retrieval": "finery_retrieve.evaluate.retrieval.step:Retrieval",
        "eval.grounded": "finery_retrieve.evaluate.grounded.step:Grounded",
        "retrieve.bundle": "finery_retrieve.serve.bundle:RetrieveBundle",
        "retrieve.check": "finery_retrieve.check.step:RetrieveCheck",
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
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes of this plugin."""
    from finery_retrieve import notes, prompt_notes, tokenizer_notes

    return notes.KINDS | prompt_notes.KINDS | tokenizer_notes.KINDS


@hookimpl
def finery_checks(graph: Any, results: Any) -> Sequence[Any]:
    """Notes on rows that should or shouldn't have retrieved documents, and on their prompts."""
    modules = ("evaluate.grounded.step", "raft.step", "steps.model", "steps.rows")
    noted = {"finery_synth.steps.from_docs", *(f"finery_retrieve.{name}" for name in modules)}
    if not noted & set(sys.modules):
        return []  # the recipe has no such step
    from finery_retrieve.notes import notes_on
    from finery_retrieve.prompt_notes import notes_on_prompts
    from finery_retrieve.tokenizer_notes import notes_on_tokenizers

    return [
        *notes_on(graph, results),
        *notes_on_prompts(graph),
        *notes_on_tokenizers(graph, results),
    ]


@hookimpl
def finery_servers() -> Mapping[str, str]:
    """The app that answers with sources, for models that retrieve and for their bundles."""
    return {
        "retrieving": "finery_retrieve.serve.running:serve_model",
        "retrieve": "finery_retrieve.serve.running:serve_bundle",
    }
