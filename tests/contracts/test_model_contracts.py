"""Steps that take and make models keep the contract of step types, with models of a few KB."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from llama_server import needs_llama_server
from needs import may_lack
from serving import gguf_model
from tiny_gguf import write_tiny_gguf
from vllm_models import tiny_adapter, tiny_base
from warm import TORCH

from finery import Dataset, Files, Model, Step
from finery.testing import StepContract, TestJob, dataset
from finery.testing.hostile import Change
from finery_eval.steps.exact import Exact
from finery_eval.steps.rules import Rule, Rules
from finery_hub.push.step import HubPush
from finery_local.model import LocalModel
from finery_ollama.modelfile import Modelfile
from finery_prompt.model import PromptModel
from finery_serve.bundle.step import LlamaBundle
from finery_serve.check.step import Check
from finery_trl.distill import Distill
from finery_trl.grpo import Grpo
from finery_trl.steps import Pretrain, Sft
from finery_vllm.bundle.step import VllmBundle
from finery_vllm.model import VllmModel
from finery_vllm.quantize import Quantize

IMPORTS = TORCH

ROWS = [
    {"prompt": f"where is my {thing}", "completion": f"{thing}_arrival"}
    for thing in ("card", "rate", "key", "late", "my", "is")
]


class TestLocalModel(StepContract):
    """local.model, on a GGUF file."""

    def step(self, folder: Path) -> Step:
        folder.mkdir(parents=True, exist_ok=True)
        write_tiny_gguf(folder / "tiny.gguf")
        return LocalModel(path=Files(["tiny.gguf"]))


class TestModelfile(StepContract):
    """ollama.modelfile."""

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

    def step(self, folder: Path) -> Step:
        (folder / "gguf").mkdir(parents=True)
        write_tiny_gguf(folder / "gguf" / "tiny.gguf")
        gguf = Model(folder / "gguf", meta={"format": "gguf", "file": "tiny.gguf"})
        gguf.ref = "tiny"
        return HubPush(models=[gguf], repo="acme/tiny", dry_run=True, recipe=False)


class TestLlamaBundle(StepContract):
    """llama.bundle."""

    def step(self, folder: Path) -> Step:
        (folder / "gguf").mkdir(parents=True)
        write_tiny_gguf(folder / "gguf" / "tiny.gguf")
        gguf = Model(folder / "gguf", meta={"format": "gguf", "file": "tiny.gguf"})
        return LlamaBundle(gguf=gguf, name="tiny")


@needs_llama_server
class TestServeCheck(StepContract):
    """serve.check, with eval.exact inside."""

    def step(self, folder: Path) -> Step:
        judge = Exact(models=[Model.placeholder("models")], rows=Dataset.placeholder("rows"))
        judge.max_tokens = 4
        model = gguf_model(folder / "tiny")
        return Check(models=[model], rows=dataset(folder / "rows", ROWS[:3]), judge=judge)


class TestVllmBundle(StepContract):
    """vllm.bundle, of one tiny adapter."""

    others = {"image": "vllm/vllm-openai:v0.33.0", "weights": "copy"}

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


@pytest.mark.real
class TestSft(StepContract):
    """trl.sft: killed in the middle, it goes on from a checkpoint, to the same weights."""

    others = {"packing": None}

    def step(self, folder: Path) -> Step:
        from tiny_llama import tiny_llama

        return Sft(
            model=tiny_llama(folder / "model"),
            rows=[dataset(folder / "rows", ROWS)],
            epochs=4,
            effective_batch_size=2,
            save_steps=2,
        )


@pytest.mark.real
class TestPretrain(StepContract):
    """trl.pretrain, on documents that share blocks."""

    others = {"packing": None, "too_long": None}

    def step(self, folder: Path) -> Step:
        from tiny_llama import tiny_llama

        return Pretrain(
            model=tiny_llama(folder / "model"),
            rows=[dataset(folder / "rows", [{"text": row["prompt"]} for row in ROWS])],
            max_length=64,
            epochs=4,
            effective_batch_size=1,
            save_steps=2,
        )

    def step_with_rows(self, folder: Path, change: Change) -> Step | None:
        """A long document is no row that is left out: it has a block for each 64 bytes."""
        return super().step_with_rows(
            folder, lambda rows: [{**row, "text": row["text"][:4000]} for row in change(rows)]
        )


@pytest.mark.real
class TestGrpo(StepContract):
    """trl.grpo: killed in the middle, it samples the same answers again."""

    others = {"algorithm": "rloo"}

    def step(self, folder: Path) -> Step:
        from tiny_llama import tiny_llama

        given: Any = {"models": [Model.placeholder("model")], "rows": Dataset.placeholder("rows")}
        return Grpo(
            model=tiny_llama(folder / "model"),
            rows=[dataset(folder / "rows", ROWS)],
            reward=[Rules(**given, rules={"a": Rule(matches="a")}), Exact(**given)],
            weights={"a": 1, "eval.exact.accuracy": 1},
            epochs=4,
            num_generations=2,
            effective_batch_size=4,
            max_completion_length=6,
            save_steps=2,
        )


@pytest.mark.real
class TestDistill(StepContract):
    """trl.distill: killed in the middle, it writes the same answers again."""

    others = {"beta": 0.5}

    def step(self, folder: Path) -> Step:
        from tiny_llama import tiny_llama

        model = tiny_llama(folder / "model")
        teacher = PromptModel(model=model, system="Be brief.").run(TestJob(folder / "teacher"))
        return Distill(
            model=model,
            teacher=teacher,
            rows=[dataset(folder / "rows", ROWS)],
            epochs=4,
            effective_batch_size=2,
            max_completion_length=6,
            save_steps=2,
        )
