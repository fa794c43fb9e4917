"""The column of the matrix for vLLM, and a running server for one family."""

from pathlib import Path
from typing import Any

import pytest
from models import page, vllm_prompts
from models.checks import frozen_of
from models.families import FAMILIES
from models.tiny import tokenizer_of
from vllm_models import needs_vllm

from finery_vllm.server import start

pytestmark = [pytest.mark.slow, needs_vllm]

FRESH = "python tests/models/page.py --vllm"
QWEN3 = next(family for family in FAMILIES if family.name == "Qwen3")
HEAD = 32
"""The smallest head for which vLLM has attention on a CPU."""


def test_vllm_writes_the_prompts_of_the_training(smollm2_gguf: Path, tmp_path: Path) -> None:
    measured = vllm_prompts.outcomes(FAMILIES, smollm2_gguf, tmp_path)
    committed = {name: own["vllm"] for name, own in page.committed()["families"].items()}
    assert measured == committed, f"if that is right: {FRESH}"


def test_a_running_vllm_writes_them_too(smollm2_gguf: Path, tmp_path: Path) -> None:
    frozen = frozen_of(tokenizer_of(QWEN3, smollm2_gguf), tmp_path / "trained", tools=True)
    served = tmp_path / "served"
    vllm_prompts.write_served(served, QWEN3, frozen)
    write_weights(served)
    template = ["--chat-template", str(served / "chat_template.jinja")]
    with start(
        served, slots=2, context=2048,
        options=[
            *template, "--chat-template-content-format", "string", "--enforce-eager",
            "--enable-scale-out",
        ],
    ) as server:  # fmt: skip
        compared = 0
        for name, tokens, body in vllm_prompts.requests(frozen):
            asked = {"model": "model", **body}
            answer = server.request("/v1/chat/completions/render", asked)
            assert answer["token_ids"] == tokens, name
            compared += 1
        body = {"model": "model", "return_token_ids": True, "max_tokens": 1}
        _, tokens, asked = next(vllm_prompts.requests(frozen))
        answered = server.request("/v1/chat/completions", body | asked)
    assert compared >= 14
    assert answered["prompt_token_ids"] == tokens


def write_weights(folder: Path) -> None:
    """Random weights for the configuration, with heads that vLLM takes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    config.head_dim = HEAD
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    auto.from_config(config, dtype=torch.float32).save_pretrained(str(folder))
