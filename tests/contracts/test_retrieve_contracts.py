"""The steps and the engine of retrieval keep the contracts."""

from pathlib import Path

from answering import bundled, retrieving
from llama_server import needs_llama_server
from serving import gguf_model
from tiny_llama import tiny_counter

from finery import Index, Model, Step
from finery.testing import EngineContract, StepContract, dataset, run_step, table_model
from finery_openai.model import OpenaiModel
from finery_retrieve.embed.steps import RetrieveApi
from finery_retrieve.serve.bundle import RetrieveBundle
from finery_retrieve.serve.check import RetrieveCheck
from finery_retrieve.steps.index import RetrieveIndex
from finery_retrieve.steps.model import RetrieveModel, RetrieveRows

PRICES = ("input", "output")
CHUNKS = [
    {"text": f"The {thing} arrives in {n} days.", "source": f"{thing}.md", "line": n}
    for n, thing in enumerate(("card", "rate", "key"), start=1)
]
ROWS = [{"prompt": f"When does my {thing} arrive?", "completion": "Soon."} for thing in ("card",
    "rate", "key", "cat")]  # fmt: skip


def index_in(folder: Path) -> Index:
    step = RetrieveIndex(
        rows=[dataset(folder / "chunks", CHUNKS)], tokenizer=tiny_counter(folder / "base")
    )
    index = run_step(step, folder / "index")
    assert isinstance(index, Index)
    return index


class TestIndex(StepContract):
    """retrieve.index."""

    others = {"method": None, "text": "source"}  # another method needs a model

    def step(self, folder: Path) -> Step:
        return RetrieveIndex(rows=[dataset(folder / "chunks", CHUNKS)])


class TestRows(StepContract):
    """retrieve.rows."""

    others = {"limit": 60}
    situations = {"limit": {"limit": 20}}

    def step(self, folder: Path) -> Step:
        return RetrieveRows(rows=dataset(folder / "rows", ROWS), index=index_in(folder), k=2)


class TestModel(StepContract):
    """retrieve.model."""

    others = {"limit": 60}
    situations = {"limit": {"limit": 20}}

    def step(self, folder: Path) -> Step:
        under = table_model(folder / "table", default="No idea.")
        return RetrieveModel(model=under, index=index_in(folder), k=1)


class TestApi(StepContract):
    """retrieve.api."""

    others = {"base_url": "http://127.0.0.1:1/v1", "api_key": "OTHER_API_KEY"}
    situations = {f"price.{name}": {"price": {"input": 2.0, "output": 1.0}} for name in PRICES}

    def step(self, folder: Path) -> Step:
        return RetrieveApi(model="words", base_url="http://127.0.0.1:9/v1", api_key=None)


class TestRetrieving(EngineContract):
    """The engine of retrieve.model."""

    def model(self, folder: Path) -> Model:
        under = table_model(folder / "table", {"Where is my card?": "On its way."}, "No idea.")
        step = RetrieveModel(model=under, index=index_in(folder))
        model = run_step(step, folder / "model")
        assert isinstance(model, Model)
        return model


@needs_llama_server
class TestCheck(StepContract):
    """retrieve.check, of a bundle with a tiny GGUF."""

    others = {"passing": 0.5}
    without_effect = {
        "slots": "answers are the same with any number",
        "passing": "this model has no right answers: tests/plugins/test_retrieve_check.py",
        "allow": "this server has no faults: tests/plugins/test_retrieve_check.py",
    }

    def step(self, folder: Path) -> Step:
        model = retrieving(folder / "rag", gguf_model(folder / "tiny"), index_in(folder), k=1)
        model.ref = "rag"
        row = {**ROWS[0], "quote": CHUNKS[0]["text"], "source": "card.md"}
        return RetrieveCheck(
            models=[model], bundle=bundled(folder / "bundle", model, slots=1, context=512),
            rows=dataset(folder / "rows", [row]), max_tokens=4,
        )  # fmt: skip


class TestBundle(StepContract):
    """retrieve.bundle, with a model behind an API."""

    others = {"name": "other"}

    def step(self, folder: Path) -> Step:
        under = run_step(OpenaiModel(model="m", api_key=None), folder / "api")
        model = run_step(RetrieveModel(model=under, index=index_in(folder)), folder / "model")
        return RetrieveBundle(model=model, name="guide")
