"""Steps that train and judge answers from documents keep the contract of step types."""

from pathlib import Path
from typing import Any

import pytest
from asking import chunk_rows, index_of, question_row
from embedding import tiny_bert
from tiny_llama import tiny_counter
from warm import TORCH

from finery import Files, Model, Step
from finery.testing import StepContract, dataset, run_step, table_model
from finery_retrieve.embed.steps import RetrieveEmbedder
from finery_retrieve.evaluate.grounded import Grounded
from finery_retrieve.evaluate.retrieval import Retrieval
from finery_retrieve.steps.raft import Raft
from finery_retrieve.steps.rerank import RetrieveRerank
from finery_retrieve.train.steps import EmbedTrain, RerankTrain

IMPORTS = (*TORCH, "sentence_transformers")

ROOMS = range(10, 13)


def given(folder: Path) -> dict[str, Any]:
    """Questions and an index of what they are about."""
    rows = dataset(folder / "questions", [question_row(room) for room in ROOMS])
    tokenizer = tiny_counter(folder / "base")
    return {"rows": rows, "index": index_of(folder, chunk_rows(ROOMS), tokenizer=tokenizer)}


def tiny_embedder(folder: Path) -> Model:
    """A random BERT, whose files are in its folder."""
    root = tiny_bert(folder / "bert")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    model = run_step(RetrieveEmbedder(path=Files(["bert"], files)), folder / "facts")
    return Model(root, meta={k: v for k, v in model.meta.items() if k != "files"})


class TestRaft(StepContract):
    """synth.raft."""

    others = {"limit": 200, "oracle": 0.3}

    def step(self, folder: Path) -> Step:
        own = given(folder)
        return Raft(**{**own, "rows": [own["rows"]]})


class TestRetrieval(StepContract):
    """eval.retrieval."""

    others = {"k": [2]}

    def step(self, folder: Path) -> Step:
        own = given(folder)
        other = index_of(folder, chunk_rows(ROOMS), "other", method="bm25")
        return Retrieval(indices=[own["index"], other], rows=own["rows"])


@pytest.mark.slow
class TestGrounded(StepContract):
    """eval.grounded."""

    others = {"limit": 200, "contexts": ["oracle"]}

    def step(self, folder: Path) -> Step:
        models = [table_model(folder / "one", default="It is 87109."),
                  table_model(folder / "two", default="The documents don't say.")]  # fmt: skip
        return Grounded(models=models, k=2, **given(folder))


@pytest.mark.slow
class TestEmbedTrain(StepContract):
    """embed.train."""

    others = {"dimensions": [8]}

    def step(self, folder: Path) -> Step:
        return EmbedTrain(model=tiny_embedder(folder), **self._given(folder), negatives=1)

    def _given(self, folder: Path) -> dict[str, Any]:
        rows = dataset(folder / "questions", [question_row(room) for room in ROOMS])
        return {"rows": [rows], "index": index_of(folder, chunk_rows(ROOMS))}


@pytest.mark.slow
class TestRerankTrain(TestEmbedTrain):
    """rerank.train."""

    others = {}

    def step(self, folder: Path) -> Step:
        return RerankTrain(model=tiny_embedder(folder), **self._given(folder), negatives=1)


class TestRerank(StepContract):
    """retrieve.rerank."""

    def step(self, folder: Path) -> Step:
        (folder / "reranker").mkdir(parents=True)
        model = Model(folder / "reranker", meta={"format": "reranker"})
        return RetrieveRerank(index=index_of(folder, chunk_rows(ROOMS)), model=model)
