"""`vllm.bundle`: what it refuses, each with its message, and what it writes."""

import ast
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_llama import CHATML, tiny_tokenizer
from vllm_models import tiny_adapter, tiny_base

from finery import Bundle, File, Model, StepError, UsageError
from finery.testing import TestJob
from finery_vllm.bundle.step import VllmBundle
from finery_vllm.server import SERVER_MODULE

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_base(tmp_path_factory.mktemp("base"))


def named(name: str, model: Model) -> Model:
    model.ref = name
    return model


def bundle(folder: Path, *models: Model, **settings: Any) -> Bundle:
    """The bundle of models, which are called a, b, c where they have no name."""
    for letter, model in zip("abc", models, strict=False):
        model.ref = model.ref or letter
    step = VllmBundle(models=list(models), **settings)
    step.check()
    return step.run(TestJob(folder))


def refused(folder: Path, *models: Model, **settings: Any) -> StepError:
    """The error, after which the folder is empty."""
    with pytest.raises(StepError) as error:
        bundle(folder, *models, **settings)
    assert not [path for path in folder.rglob("*") if path.is_file()]
    return error.value


PLANTED: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"rank_pattern": {"q_proj": 520}}, "its rank is 520, and vLLM's largest is 512"),
    "whole layers": ({"modules_to_save": ["lm_head"]}, "modules_to_save: lm_head"),
    "DoRA": ({"use_dora": True}, "it is a DoRA"),
    "biases": ({"bias": "all"}, "it trains biases (bias: all)"),
    "tokens": ({"trainable_token_indices": [5]}, "it trains tokens' embeddings"),
    "another method": ({"peft_type": "LOHA"}, "it isn't a LoRA but LOHA"),
}


@pytest.mark.parametrize("case", PLANTED)
def test_adapters_that_vllm_refuses_are_refused(case: str, base: Model, tmp_path: Path) -> None:
    config, reason = PLANTED[case]
    error = refused(tmp_path / "job", tiny_adapter(tmp_path / "a", base, **config))
    assert error.what.startswith("vLLM can't serve the adapter 'a' with its base: ")
    assert reason in error.what
    assert "`merge: true`" in str(error.fix)


@pytest.mark.parametrize(("tensors", "reason"), [
    ({"prefix": "base_model.model.model.language_model.layers"},
     "its base has no layer model.language_model.layers.0.self_attn.q_proj, "
     "model.language_model.layers.0.self_attn.v_proj, "
     "model.language_model.layers.1.self_attn.q_proj and 1 more: the base's layers have other "
     "names, e.g. model.layers.0.self_attn.q_proj"),
    ({"more": ("base_model.model.lm_head.lora_A.weight",)}, "the ends of the model: lm_head"),
    ({"meta": {"merge": "dequantized"}}, "the base's 4-bit weights"),
])  # fmt: skip
def test_adapters_that_vllm_would_serve_as_the_base_are_refused(
    tensors: dict[str, Any], reason: str, base: Model, tmp_path: Path
) -> None:
    error = refused(tmp_path / "job", tiny_adapter(tmp_path / "a", base, **tensors))
    assert reason in error.what


def test_adapters_on_two_bases_are_refused(base: Model, tmp_path: Path) -> None:
    other = tiny_base(tmp_path / "other")
    other.meta["name"] = "another"
    adapters = [tiny_adapter(tmp_path / "a", base), tiny_adapter(tmp_path / "b", other)]
    error = refused(tmp_path / "job", *adapters)
    assert error.what == "the adapters 'a' and 'b' have different base models"
    assert error.details[0].startswith("a: on tiny, ")


def test_different_templates_are_refused(base: Model, tmp_path: Path) -> None:
    adapters = [tiny_adapter(tmp_path / name, base) for name in "ab"]
    tiny_tokenizer(CHATML.replace("assistant", "model")).save_pretrained(str(adapters[1].path))
    error = refused(tmp_path / "job", *adapters)
    assert error.what == "the adapters 'a' and 'b' were trained with different chat templates"
    assert len(error.details) == 2


def test_one_template_writes_tools_if_one_training_had_them(base: Model, tmp_path: Path) -> None:
    with_tools, without = (
        tiny_adapter(tmp_path / name, base, meta={"prompts": {"tools": tools}})
        for name, tools in (("a", True), ("b", False))
    )
    refusal = "trained without tools"
    for adapters, refuses in (([with_tools, without], False), ([without], True)):
        job = tmp_path / f"job{len(adapters)}"
        bundle(job, *adapters)
        assert (refusal in (job / "out" / "chat_template.jinja").read_text()) == refuses


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("Name it.", "begins with that of the training: Name it."),
        ("Be brief.", "Send the system message"),
        ("", "Send the system message"),
    ],
)
def test_a_system_message_is_added_if_all_trainings_had_it(
    base: Model, tmp_path: Path, other: str, words: str
) -> None:
    adapters = [
        tiny_adapter(tmp_path / name, base, meta={"prompts": {"tools": False, "system": system}})
        for name, system in (("a", "Name it."), ("b", other))
    ]
    written = bundle(tmp_path / "job", *adapters)
    shared = other == "Name it."
    assert ("Name it." in written.file("chat_template.jinja").read_text("utf-8")) == shared
    assert written.meta.get("system") == ("Name it." if shared else None)
    assert words in " ".join(written.file("README.md").read_text("utf-8").split())


def test_the_client_sends_the_tools_of_all_trainings(base: Model, tmp_path: Path) -> None:
    def prompts(name: str) -> dict[str, Any]:
        tools = [{"type": "function", "function": {"name": name}}]
        messages = [{"role": "user", "content": "Late?"}]
        return {
            "tools": True,
            "training_example": json.dumps({"messages": messages, "tools": tools}),
        }

    for other, words in (("find", "offer the same tools: find"), ("book", "offer different tools")):
        adapters = [
            tiny_adapter(tmp_path / other / name, base, meta={"prompts": prompts(tool)})
            for name, tool in (("a", "find"), ("b", other))
        ]
        made = bundle(tmp_path / other, *adapters)
        request = json.loads(made.file("request.json").read_text("utf-8"))
        assert request["tools"][0]["function"]["name"] == "find"
        assert request["tool_choice"] == "none"  # vLLM has no parser for calls
        assert words in made.file("README.md").read_text("utf-8")


def test_a_whole_model_beside_an_adapter_is_refused(base: Model, tmp_path: Path) -> None:
    error = refused(tmp_path / "job", tiny_adapter(tmp_path / "a", base), named("whole", base))
    assert error.what == "'whole' is a whole model, not an adapter"
    base.ref = ""


@pytest.mark.parametrize(("settings", "message"), [
    ({"merge": True}, "a merged adapter is a complete model"),
    ({"image": "vllm/vllm-openai:latest"}, "isn't pinned"),
    ({"options": {"max_lora_rank": 8}}, "'max_lora_rank' can't be set in options"),
])  # fmt: skip
def test_settings_that_cannot_work_are_refused(
    settings: dict[str, Any], message: str, base: Model
) -> None:
    models = [named(name, Model(base.path, meta={"format": "adapter"})) for name in "ab"]
    with pytest.raises(UsageError, match=re.escape(message)):
        VllmBundle(models=models, **settings).check()


def test_the_folder_holds_all_that_a_colleague_needs(base: Model, tmp_path: Path) -> None:
    path, out = tmp_path / "answer.json", tmp_path / "job" / "out"
    path.write_text(json.dumps(SCHEMA))
    fixed = {"chat_template_kwargs": {"enable_thinking": False}}
    adapters = [tiny_adapter(tmp_path / name, base, meta=fixed) for name in "ab"]
    made = bundle(
        tmp_path / "job", *adapters, schema=File([], [path]), port=8123, options={"seed": 3}
    )
    assert made.meta["models"] == ["base", "a", "b"]
    assert {p.name for p in (out / "adapters" / "a").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    assert (out / "base" / "model.safetensors").is_file()
    assert "enable_thinking = false" in (out / "chat_template.jinja").read_text()
    assert json.loads((out / "schema.json").read_text()) == SCHEMA
    ends = json.loads((out / "generation" / "generation_config.json").read_text())["eos_token_id"]
    assert ends == [0, 2]  # the end of sequence, and of ChatML's turns
    described = json.loads((out / "serve.json").read_text())
    assert (described["base"], described["adapters"]) == ("base", ["a", "b"])
    composed = yaml.safe_load((out / "compose.yaml").read_text())["services"]["vllm"]
    assert composed["image"] == "vllm/vllm-openai:v0.32.0"
    assert composed["command"][: len(described["arguments"])] == described["arguments"]
    assert composed["ports"] == ["127.0.0.1:8123:8000"]
    assert "b=./adapters/b" in composed["command"]
    assert composed["command"][-2:] == ["--port", "8000"]
    client = (out / "client.py").read_text()
    assert 'MODELS = ["a", "b"]' in client
    request = json.loads((out / "request.json").read_text("utf-8"))
    assert request["response_format"]["json_schema"]["schema"] == SCHEMA
    ast.parse(client)
    guide = (out / "README.md").read_text()
    assert "sh run.sh" in guide
    assert "`enable_thinking: false`" in guide


def test_the_command_runs_with_the_arguments(base: Model, tmp_path: Path) -> None:
    """The shell passes to vLLM what `serve.json` lists."""
    out = tmp_path / "job" / "out"
    bundle(
        tmp_path / "job",
        tiny_adapter(tmp_path / "a", base),
        options={"seed": 3, "enforce_eager": True},
    )
    shown = tmp_path / "shown"
    shown.write_text('#!/bin/sh\nfor each in "$@"; do printf "%s\\n" "$each"; done\n')
    shown.chmod(0o755)
    ran = subprocess.run(
        ["sh", str(out / "run.sh"), "--extra"], env={"PYTHON": str(shown), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    arguments = json.loads((out / "serve.json").read_text())["arguments"]
    assert ran.stdout.splitlines() == [
        "-m", SERVER_MODULE, *arguments, "--host", "127.0.0.1", "--port", "8000", "--extra",
    ]  # fmt: skip
    assert arguments[-3:] == ["--seed", "3", "--enforce-eager"]
    assert "{% " not in ran.stdout


def test_a_base_from_the_hub_is_named_with_its_revision(base: Model, tmp_path: Path) -> None:
    hub = Model(base.path, meta={**base.meta, "repo": "org/tiny"}, runtime={"revision": "ab12"})
    adapter = tiny_adapter(tmp_path / "a", hub)
    bundle(tmp_path / "job", adapter)
    described = json.loads((tmp_path / "job" / "out" / "serve.json").read_text())
    assert described["arguments"][:4] == ["--model", "org/tiny", "--revision", "ab12"]
    assert not (tmp_path / "job" / "out" / "base").exists()
    assert "huggingface" in (tmp_path / "job" / "out" / "compose.yaml").read_text()
    bundle(tmp_path / "copied", adapter, weights="copy")
    assert (tmp_path / "copied" / "out" / "base" / "model.safetensors").is_file()


def test_a_merged_adapter_is_a_whole_model(base: Model, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "job" / "out"
    made = bundle(tmp_path / "job", tiny_adapter(tmp_path / "a", base, use_dora=False), merge=True)
    assert made.meta["models"] == ["a"]
    assert "--enable-lora" not in (out / "run.sh").read_text()
    merged: Any = AutoModelForCausalLM.from_pretrained(out / "model")
    plain: Any = AutoModelForCausalLM.from_pretrained(base.path)
    layer = "model.layers.0.self_attn.q_proj.weight"
    difference = merged.state_dict()[layer].float() - plain.state_dict()[layer]
    assert difference.abs().max() > 0.1
