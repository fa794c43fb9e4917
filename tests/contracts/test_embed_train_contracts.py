"""Trainers of embedders and rerankers keep the contract of step types."""

from pathlib import Path
from typing import Any

import pytest
from asking import chunk_rows, index_of, question_row
from embedding import tiny_bert
from warm import TORCH

from finery import Files, Model, Step
from finery.testing import StepContract, dataset, run_step
from finery_retrieve.embed.steps import RetrieveEmbedder
from finery_retrieve.train.steps import EmbedTrain, RerankTrain

pytestmark = pytest.mark.slow
IMPORTS = (*TORCH, "sentence_transformers")

ROOMS = range(10, 13)


def tiny_embedder(folder: Path) -> Model:
    """A random BERT, whose files are in its folder."""
    root = tiny_bert(folder / "bert")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    model = run_step(RetrieveEmbedder(path=Files(["bert"], files)), folder / "facts")
    return Model(root, meta={k: v for k, v in model.meta.items() if k != "files"})


class TestEmbedTrain(StepContract):
    """embed.train."""

    others = {"dimensions": [8]}

    def step(self, folder: Path) -> Step:
        return EmbedTrain(model=tiny_embedder(folder), **self._given(folder), negatives=1)

    def _given(self, folder: Path) -> dict[str, Any]:
        rows = dataset(folder / "questions", [question_row(room) for room in ROOMS])
        return {"rows": [rows], "index": index_of(folder, chunk_rows(ROOMS))}


class TestRerankTrain(TestEmbedTrain):
    """rerank.train."""

    others = {}

    def step(self, folder: Path) -> Step:
        return RerankTrain(model=tiny_embedder(folder), **self._given(folder), negatives=1)
