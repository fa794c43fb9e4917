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
    }
