"""Steps that take models keep the contract of step types, with models of a few KB."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from llama_server import needs_llama_server
from needs import may_lack
from serving import gguf_model
from tiny_gguf import write_tiny_gguf
from vllm_models import tiny_adapter, tiny_base

from finery import Dataset, Files, Model, Step
from finery.testing import StepContract, TestJob, dataset
from finery_eval.steps.exact import Exact
from finery_hub.push.step import HubPush
from finery_local.model import LocalModel
from finery_ollama.modelfile import Modelfile
from finery_serve.bundle.step import LlamaBundle
from finery_serve.check.step import Check
from finery_vllm.bundle.step import VllmBundle
from finery_vllm.model import VllmModel
from finery_vllm.quantize import Quantize

ROWS = [
    {"prompt": f"where is my {thing}", "completion": f"{thing}_arrival"}
    for thing in ("card", "rate", "key", "late", "my", "is")
]


class TestLocalModel(StepContract):
    """local.model, on a GGUF file."""

    others = {"chat_template_kwargs": {"enable_thinking": False}}
    without_effect = dict.fromkeys(
        ("trust_remote_code", "follow_links"),
        "a GGUF file has neither code nor links: tests/plugins/test_local_model.py",
    )

    def step(self, folder: Path) -> Step:
        folder.mkdir(parents=True, exist_ok=True)
        write_tiny_gguf(folder / "tiny.gguf")
        return LocalModel(path=Files(["tiny.gguf"]))


class TestModelfile(StepContract):
    """ollama.modelfile."""

    others = {"name": "small"}

    def step(self, folder: Path) -> Step:
        (folder / "gguf").mkdir(parents=True)
        write_tiny_gguf(folder / "gguf" / "tiny.gguf")
        gguf = Model(folder / "gguf", meta={"format": "gguf", "file": "tiny.gguf"})
        return Modelfile(gguf=gguf, name="tiny")


class TestPush(StepContract):
    """hub.push, without the network: tests/plugins/test_hub_push.py has the rest."""

    others = {
        "repo": "acme/other", "dry_run": None, "merge": None, "benchmarks": None,
        "licenses": None, "license": "mit", "base_model": "acme/base",
        "base_model_relation": None, "private": None,
        "adopt": None,  # the step's name is in the facts, and so in its key
    }  # fmt: skip
    situations = {"base_model_relation": {"base_model": "acme/base"}}
    without_effect = dict.fromkeys(
        ("dry_run", "private", "adopt", "benchmarks"),
        "nothing is pushed or evaluated: tests/plugins/test_hub_push.py, test_hub_metadata.py",
    )

    def job(self, folder: Path) -> TestJob:
        """With the facts of a recipe that has only the model."""
        lists = ("trainings", "origins", "generated", "dropped", "evaluations", "apart")
        recipe = {"name": "t", "file": "recipe.yaml", "text": "name: t\n"}
        facts = {"step": "push", "recipe": recipe, "lock": {"file": "recipe.lock"}, "bases": {}}
        return TestJob(folder, provenance=facts | {name: [] for name in lists})

    def step(self, folder: Path) -> Step:
        (folder / "gguf").mkdir(parents=True)
        write_tiny_gguf(folder / "gguf" / "tiny.gguf")
        gguf = Model(folder / "gguf", meta={"format": "gguf", "file": "tiny.gguf"})
        gguf.ref = "tiny"
        return HubPush(models=[gguf], repo="acme/tiny", dry_run=True, recipe=False)


class TestLlamaBundle(StepContract):
    """llama.bundle."""

    others = {"name": "small", "image": "ghcr.io/ggml-org/llama.cpp:server-b1"}

    def step(self, folder: Path) -> Step:
        (folder / "gguf").mkdir(parents=True)
        write_tiny_gguf(folder / "gguf" / "tiny.gguf")
        gguf = Model(folder / "gguf", meta={"format": "gguf", "file": "tiny.gguf"})
        return LlamaBundle(gguf=gguf, name="tiny")


@needs_llama_server
class TestServeCheck(StepContract):
    """serve.check, with eval.exact inside."""

    situations = {"max_tokens": {"judge": None}}
    without_effect = {
        "slots": "answers are the same with any number",
        "allow": "this server has no faults: tests/plugins/test_serve_check.py",
    }

    def step(self, folder: Path) -> Step:
        judge = Exact(models=[Model.placeholder("models")], rows=Dataset.placeholder("rows"))
        judge.max_tokens = 4
        model = gguf_model(folder / "tiny")
        return Check(models=[model], rows=dataset(folder / "rows", ROWS[:3]), judge=judge)


class TestVllmBundle(StepContract):
    """vllm.bundle, of one tiny adapter."""

    others = {"image": "vllm/vllm-openai:v0.33.0", "weights": "copy", "name": "other"}
    without_effect = {"weights": "auto copies this base, and hub is refused in tests/plugins"}

    def step(self, folder: Path) -> Step:
        base = tiny_base(folder / "base")
        adapter = tiny_adapter(folder / "adapter", base)
        adapter.ref = "sft"
        return VllmBundle(models=[adapter])


class TestVllmModel(StepContract):
    """vllm.model, which doesn't start vLLM."""

    others = {"merge": True}

    def step(self, folder: Path) -> Step:
        model = tiny_base(folder / "base")
        model.ref = "base"
        return VllmModel(model=model)


@pytest.mark.skipif(
    find_spec("llmcompressor") is None, reason=may_lack("LLM Compressor needs an environment")
)
class TestVllmQuantize(StepContract):
    """vllm.quantize."""

    def step(self, folder: Path) -> Step:
        model = tiny_base(folder / "base")
        model.ref = "base"
        return Quantize(model=model)
