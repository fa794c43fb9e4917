"""Trainings of what retrieves: embedding models and rerankers, with sentence-transformers.

Input: questions and an index that has their answers, or pairs of a question and a passage. Output:
a model with its curve, an embedding model for `retrieve.index` or a reranker for `retrieve.rerank`.
It is the plugin `embed`, since step types are named after one, and `rerank` is beside it.
"""

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step type of this plugin."""
    return {"embed.train": "finery_retrieve.train.steps:EmbedTrain"}
