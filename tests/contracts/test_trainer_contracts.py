"""Trainers of language models keep the contract of step types, with models of a few KB."""

from pathlib import Path
from shutil import which
from typing import Any

import pytest
from tiny_llama import tiny_llama
from warm import TORCH

from finery import Dataset, Model, Step
from finery.testing import StepContract, TestJob, dataset
from finery.testing.variations import Change
from finery_eval.steps.exact import Exact
from finery_eval.steps.rules import Rule, Rules
from finery_prompt.model import PromptModel
from finery_trl.on_policy import Distill, Grpo
from finery_trl.steps import Pretrain, Sft

pytestmark = pytest.mark.real
IMPORTS = TORCH

ROWS = [
    {"prompt": f"where is my {thing}", "completion": f"{thing}_arrival"}
    for thing in ("card", "rate", "key", "late", "my", "is")
]

SITUATIONS: dict[str, dict[str, Any]] = {
    "double_quantization": {"quantization": "nf4"},
    "merge": {"quantization": "nf4"},
    "too_long": {"max_length": 28},
    "max_length": {"max_length": 28},
}
UNSEEN = {
    "adapter": "these models are no adapters: tests/plugins/test_trl_sft.py",
    "tracking_dir": "trackers write there, not into the output: tests/plugins/test_trl_sft.py",
    **({} if which("nvidia-smi") else {"activation_offloading": "a CPU has nothing to offload"}),
}
OTHERS = {
    "args": {"weight_decay": 0.1},
    "report_to": ["tensorboard"],
    **dict.fromkeys(UNSEEN),  # a checkpoint has times, which would count as what they change
}


class TestSft(StepContract):
    """trl.sft: killed in the middle, it goes on from a checkpoint, to the same weights."""

    others = {"packing": None, **OTHERS}
    situations = SITUATIONS
    without_effect = UNSEEN

    def step(self, folder: Path) -> Step:
        return Sft(
            model=tiny_llama(folder / "model", width=64),
            rows=[dataset(folder / "rows", ROWS)],
            epochs=4,
            effective_batch_size=2,
            save_steps=2,
        )


class TestPretrain(StepContract):
    """trl.pretrain, on documents that share blocks."""

    others = {"packing": None, "too_long": None, **OTHERS}
    situations = {**SITUATIONS, "launch.nodes": {"effective_batch_size": 2}}
    without_effect = UNSEEN

    def step(self, folder: Path) -> Step:
        return Pretrain(
            model=tiny_llama(folder / "model", width=64),
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


class TestGrpo(StepContract):
    """trl.grpo: killed in the middle, it samples the same answers again."""

    others = {"algorithm": "rloo", **OTHERS}
    situations = SITUATIONS
    without_effect = UNSEEN | dict.fromkeys(
        ("functions.file", "functions.weights"),
        "the reward is an evaluator: tests/plugins/test_trl_grpo.py",
    )

    def step(self, folder: Path) -> Step:
        given: Any = {"models": [Model.placeholder("model")], "rows": Dataset.placeholder("rows")}
        return Grpo(
            model=tiny_llama(folder / "model", width=64),
            rows=[dataset(folder / "rows", ROWS)],
            reward=[Rules(**given, rules={"a": Rule(matches="a")}), Exact(**given)],
            weights={"a": 1, "eval.exact.accuracy": 1},
            epochs=4,
            num_generations=2,
            effective_batch_size=4,
            max_completion_length=6,
            save_steps=2,
        )


class TestDistill(StepContract):
    """trl.distill: killed in the middle, it writes the same answers again."""

    others = {"beta": 0.5, **OTHERS}
    situations = SITUATIONS
    without_effect = UNSEEN

    def step(self, folder: Path) -> Step:
        model = tiny_llama(folder / "model", width=64)
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
