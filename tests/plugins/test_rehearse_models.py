"""Rehearsals with language models that have no weights, from training to server."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project, smollm2_tokenizer
from needs import need

need("torch")

from finery_local.small import small_settings  # noqa: E402

QWEN3_4B = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 2560,
    "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960,
    "rope_theta": 1000000, "tie_word_embeddings": True, "dtype": "bfloat16",
}  # fmt: skip
LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192,
    "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "max_position_embeddings": 131072, "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
    "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
OPT = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 768,
    "word_embed_proj_dim": 768, "ffn_dim": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "max_position_embeddings": 2048,
}  # fmt: skip
RECIPE = """\
finery: 1
name: big
models:
  base: {use: local.model, path: base}
data:
  rows: {use: data.file, path: rows.jsonl}
  split: {use: data.split, rows: rows, validation: 0.1, test: 0.1}
train:
  sft: {use: trl.sft, model: base, rows: split.train, validation: split.validation, launch: {processes: 8}, warmup_steps: 5}
evaluate:
  test: {use: eval.exact, models: [base, sft], rows: split.test, require: {sft.accuracy: ">= 0.9"}}
  exported: {use: eval.exact, models: gguf.q4_k_m, rows: split.test}
export:
  gguf: {use: gguf.export, model: sft, quantization: [q4_k_m]}
  server: {use: llama.bundle, gguf: gguf.q4_k_m, name: big, prompt: How many?}
"""  # noqa: E501
ROWS = [
    {"prompt": f"Add {n} and {n + 3}.", "completion": f"{2 * n + 3} apples"} for n in range(200)
]


@pytest.fixture
def big(project: MakeProject, smollm2_gguf: Path) -> Any:
    """Make a project with a model that has a configuration and a tokenizer only."""

    def make(config: dict[str, Any], **files: str) -> Project:
        tokenizer = smollm2_tokenizer(smollm2_gguf)
        lines = "".join(json.dumps(row) + "\n" for row in ROWS)
        made = project({"recipe.yaml": RECIPE, "rows.jsonl": lines, **files})
        tokenizer.save_pretrained(made.folder / "base")
        ids = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2}
        made.write({"base/config.json": json.dumps({**config, **ids})})
        return made

    return make


def rehearsed(project: Project, code: int) -> str:
    """What a rehearsal prints."""
    ran = project.run("rehearse", timeout=600)
    assert ran.code == code, ran.err
    return ran.out + ran.err


@pytest.mark.slow
@pytest.mark.parametrize("config", [pytest.param(LLAMA_70B, id="llama-70b")])
def test_a_model_rehearses_without_its_weights(big: Any, config: dict[str, Any]) -> None:
    printed = rehearsed(big(config), 0)
    assert "8 of 8 steps rehearsed" in printed
    assert "not rehearsed: sft: launch" in printed


@pytest.mark.slow
def test_qwen3_rehearses_without_its_weights(big: Any) -> None:
    assert "8 of 8 steps rehearsed" in rehearsed(big(QWEN3_4B), 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("launch: {processes: 8}", "lora: {target_modules: [no_proj]}", "no_proj"),
        ("warmup_steps: 5", "max_length: 20", "longer than 20 tokens"),
        ("warmup_steps: 5", "warmup_steps: 5000", "warmup_steps"),
        ("warmup_steps: 5", "watch: {use: eval.json, rows: split.validation}", "JSON"),
        ("use: eval.exact, models: [base, sft]", "use: eval.json, models: [base, sft]", "JSON"),
    ],
)
def test_a_training_or_an_evaluation_that_would_fail_is_found(
    big: Any, old: str, new: str, text: str
) -> None:
    project = big(QWEN3_4B)
    project.edit("recipe.yaml", old, new)
    long = {"prompt": "Add 7 and " + "seven " * 40, "completion": "many"}
    lines = [*ROWS[:150], long, *ROWS[150:]]
    project.write({"rows.jsonl": "".join(json.dumps(row) + "\n" for row in lines)})
    assert text in rehearsed(project, 1)


@pytest.mark.slow
def test_an_architecture_that_gguf_doesnt_have_is_found(big: Any) -> None:
    project = big(OPT)
    printed = rehearsed(project, 1)
    assert "step 'gguf' (gguf.export)" in printed
    assert "OPTForCausalLM" in printed


@pytest.mark.slow
def test_a_template_that_the_export_refuses_is_found(big: Any) -> None:
    project = big(QWEN3_4B)
    template = project.folder / "base/chat_template.jinja"
    clock = "{% set form = '%H' %}{{ strftime_now(form) }}"
    template.write_text(clock + template.read_text())
    assert "the chat template writes today's date" in rehearsed(project, 1)


@pytest.mark.slow
def test_a_server_program_that_is_missing_is_found(big: Any) -> None:
    project = big(QWEN3_4B)
    project.edit("recipe.yaml", "  exported:", '  served: {use: serve.check, models: sft, rows: '
                 'split.test, bundle: vllm}\n  exported:')  # fmt: skip
    recipe = (project.folder / "recipe.yaml").read_text()
    project.write({"recipe.yaml": recipe + "  vllm: {use: vllm.bundle, models: [sft]}\n"})
    assert "step 'served' (serve.check)" in rehearsed(project, 1)


@pytest.mark.slow
def test_a_disk_that_is_too_small_for_the_real_export_is_found(big: Any) -> None:
    huge = {"hidden_size": 65536, "num_attention_heads": 512, "intermediate_size": 262144}
    project = big({**LLAMA_70B, **huge, "num_hidden_layers": 400})
    project.write({"base/model.safetensors": ""})
    printed = rehearsed(project, 1)
    assert "step 'gguf' (gguf.export)" in printed
    assert "GiB of disk space here" in printed


SMALL = {"num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("settings", "small"),
    [
        (LLAMA_70B, {**SMALL, "hidden_size": 256, "num_attention_heads": 2,
                     "num_key_value_heads": 1, "intermediate_size": 512}),
        (QWEN3_4B, {**SMALL, "hidden_size": 256, "head_dim": 128}),
        ({"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 3,
          "layer_types": ["a", "a", "b"]}, {**SMALL, "layer_types": ["a", "b"]}),
        ({"hidden_size": 2048, "num_attention_heads": 32, "num_hidden_layers": 48,
          "num_experts": 128, "num_experts_per_tok": 8}, {"num_experts": 4,
                                                          "num_experts_per_tok": 2}),
        ({"text_config": LLAMA_70B, "quantization_config": {}}, {}),
        ({"n_embd": 128, "n_head": 4, "n_layer": 6}, {"n_embd": 128, "n_layer": 2}),
    ],
)  # fmt: skip
def test_a_small_model_has_the_same_shape(settings: Any, small: dict[str, Any]) -> None:
    made = small_settings(settings, narrow=True)
    assert {name: made[name] for name in small} == small
    assert "quantization_config" not in made
    if "text_config" in settings:
        assert made["text_config"]["hidden_size"] == 256
