"""The engines keep the contract of engines, each with the smallest model of its format."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from embedding import tiny_bert
from hostile_server import Body, Reply, Server, said, serving
from vllm_models import needs_vllm, tiny_adapter, tiny_base

from finery import Model
from finery.testing import EngineContract, StepContract, dataset, run_step, table_model
from finery_baseline.steps import Linear, Majority, Nearest
from finery_encoder.steps import Classify
from finery_onnx.export import Export as OnnxExport
from finery_openai.model import OpenaiModel

KEY = "sk-contract-0b5e7f1a"


class TestTable(EngineContract):
    """table, the kit's own."""

    def model(self, folder: Path) -> Model:
        return table_model(folder, {"Count to three.": "one two three"}, "I have no idea.")


class TestPrompted(EngineContract):
    """prompted."""

    def model(self, folder: Path) -> Model:
        meta = {"format": "prompted", "messages": [{"role": "system", "content": "Be brief."}]}
        return Model(folder, meta=meta, refs={"model": table_model(folder / "model", {}, "Yes.")})


class TestTransformers(EngineContract):
    """transformers."""

    large_bytes = 100_000  # a tokenizer reads 1 MB a second

    def model(self, folder: Path) -> Model:
        from tiny_llama import tiny_llama

        return tiny_llama(folder)


@needs_vllm
@pytest.mark.slow
class TestVllm(EngineContract):
    """vllm, with an adapter beside its base. All tests share the server."""

    large_bytes = 100_000

    def model(self, folder: Path) -> Model:
        base = tiny_base(folder / "base")
        adapter = tiny_adapter(folder / "adapter", base, scale=0.2)
        meta = {"format": "vllm", "options": {"enforce-eager": True}}
        return Model(folder, meta=meta, refs={"model": adapter}, runtime={"concurrency": 8})


class TestGguf(EngineContract):
    """gguf."""

    large_bytes = 1_000_000

    def model(self, folder: Path) -> Model:
        from tiny_gguf import write_tiny_gguf

        write_tiny_gguf(folder / "tiny.gguf")
        return Model(folder, meta={"format": "gguf", "file": "tiny.gguf"})


def answer(body: Body) -> Reply:
    """What an honest server answers: no more tokens than asked for, JSON where that is wanted."""
    text = '{"ok": true}' if "response_format" in body else f"You said: {said(body)[:40]}"
    most: int = body.get("max_completion_tokens") or body.get("max_tokens") or 16
    words = text.split(" ")
    finish = "length" if len(words) > most else "stop"
    return Reply(" ".join(words[:most]), finish, usage=(10, min(len(words), most)))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server with an honest model."""
    with serving(answer) as running:
        yield running


class TestApi(EngineContract):
    """api."""

    secrets = {"CONTRACT_API_KEY": KEY}
    url = ""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def at(cls, server: Server) -> None:
        """Where the server is."""
        cls.url = server.url

    def model(self, folder: Path) -> Model:
        step = OpenaiModel(model="m", base_url=self.url, api_key="CONTRACT_API_KEY", retries=0)
        model: Model = run_step(step, folder)
        return model

    def test_the_server_got_the_key(self, server: Server) -> None:
        """Else the tests of secrets would show nothing."""
        self._answers()
        assert KEY in json.dumps(server.keys)


class TestOpenaiModel(StepContract):
    """openai.model."""

    others = {
        "base_url": "http://127.0.0.1:9/v1",
        "api_key": "OTHER_API_KEY",
        "extra": {"top_k": 5},
    }
    situations = {
        name: {"price": {"input": 2.0, "output": 1.0}} for name in ("price.input", "price.output")
    }

    def step(self, folder: Path) -> OpenaiModel:
        return OpenaiModel(model="m")


class TestMajorityEngine(EngineContract):
    """The engine of `baseline-majority`."""

    def model(self, folder: Path) -> Model:
        return _learned(Majority, folder)


class TestNearestEngine(EngineContract):
    """The engine of `baseline-nearest`."""

    def model(self, folder: Path) -> Model:
        return _learned(Nearest, folder)


class TestLinearEngine(EngineContract):
    """The engine of `baseline-linear`."""

    def model(self, folder: Path) -> Model:
        return _learned(Linear, folder)


class TestEncoderEngine(EngineContract):
    """The engine of `encoder`."""

    large_bytes = 100_000

    def model(self, folder: Path) -> Model:
        base = Model(tiny_bert(folder / "bert"), meta={"format": "transformers"})
        return _learned(partial(Classify, model=base), folder)


@pytest.mark.slow
class TestOnnxEngine(EngineContract):
    """The engine of `onnx`."""

    large_bytes = 100_000

    def model(self, folder: Path) -> Model:
        base = Model(tiny_bert(folder / "bert"), meta={"format": "transformers"})
        classifier = _learned(partial(Classify, model=base), folder)
        model: Model = run_step(OnnxExport(model=classifier), folder / "onnx")
        return model


def _learned(step: Any, folder: Path) -> Model:
    labels = {"late again": "time", "too early": "time", "not here": "place", "over there": "place"}
    rows = dataset(folder / "rows", [{"prompt": p, "completion": c} for p, c in labels.items()])
    model: Model = run_step(step(rows=rows), folder / "model")
    return model
