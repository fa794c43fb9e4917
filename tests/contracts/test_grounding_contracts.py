"""Steps that make and judge answers from documents keep the contract of step types."""

from pathlib import Path
from typing import Any

import pytest
from asking import chunk_rows, index_of, question_row
from tiny_llama import tiny_counter

from finery import Model, Step
from finery.testing import StepContract, dataset, table_model
from finery_retrieve.evaluate.grounded import Grounded
from finery_retrieve.evaluate.retrieval import Retrieval
from finery_retrieve.steps.index import RetrieveRerank
from finery_retrieve.steps.raft import Raft

ROOMS = range(10, 13)


def given(folder: Path) -> dict[str, Any]:
    """Questions and an index of what they are about."""
    rows = dataset(folder / "questions", [question_row(room) for room in ROOMS])
    tokenizer = tiny_counter(folder / "base")
    return {"rows": rows, "index": index_of(folder, chunk_rows(ROOMS), tokenizer=tokenizer)}


class TestRaft(StepContract):
    """synth.raft."""

    others = {"limit": 200, "oracle": 0.3}
    situations = {"missing": {"oracle": 0.01}}

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
    situations = {"limit": {"limit": 40}}

    def step(self, folder: Path) -> Step:
        models = [table_model(folder / "one", default="It is 87109."),
                  table_model(folder / "two", default="The documents don't say.")]  # fmt: skip
        return Grounded(models=models, k=2, **given(folder))


class TestRerank(StepContract):
    """retrieve.rerank."""

    def step(self, folder: Path) -> Step:
        (folder / "reranker").mkdir(parents=True)
        model = Model(folder / "reranker", meta={"format": "reranker"})
        return RetrieveRerank(index=index_of(folder, chunk_rows(ROOMS)), model=model)
