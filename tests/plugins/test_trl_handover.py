"""A trained model that is handed to someone else: its card, its base, and PEFT that loads it."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject
from tiny_llama import tiny_llama

from finery import Model
from finery_transformers.card import Base, card, complete_copy

META = {
    "format": "adapter", "base": "org/base", "license": "apache-2.0", "learned_from": "answers",
    "rows": 1234, "epochs": 1.5, "steps": 80, "best_step": 60, "eval_loss": 0.25,
}  # fmt: skip
CONFIG = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "v_proj"]}
RECIPE = """\
finery: 1
name: t
models:
  base: {use: local.model, path: model}
data:
  rows: {use: data.file, path: rows.jsonl, format: completion}
train:
  sft: {use: trl.sft, model: base, rows: rows, epochs: 1, lora: {r: 4}}
silence: [few-rows, no-evaluator, no-validation, learning-rate]
"""
ROWS = "".join(
    json.dumps({"prompt": f"{i}: my card", "completion": "yes"}) + "\n" for i in range(8)
)
LOADS = """\
import sys, torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer("my card", return_tensors="pt")
print(type(model).__name__, model(**inputs).logits.shape[-1])
"""


def loading(text: str) -> str:
    """The Python of a card."""
    return text.partition("```python\n")[2].partition("```")[0]


def test_a_card_names_base_license_training_and_how_to_load_it() -> None:
    base = Base(source="org/base", revision="a" * 40, on_hub=True)
    text = card("sft", META, CONFIG, base)
    front = text.split("---\n")[1]
    assert 'base_model: "org/base"\nlicense: "apache-2.0"\n' in front
    assert "supervised fine-tuning on answers" in text
    assert "| rows | 1,234 |" in text
    assert "| adapted layers | q_proj, v_proj |" in text
    assert f'"org/base",\n    revision="{"a" * 40}",' in loading(text)
    compile(loading(text), "README.md", "exec")


def test_the_code_of_a_card_has_the_system_message_and_the_tools_of_the_training() -> None:
    system = 'Name the "intent".\nOne word \\ no more.'
    tools = [{"function": {"name": "f", "a": [True, None, "'\"x" * 30]}}]
    prompts = {"system": system, "training_example": json.dumps({"tools": tools})}
    for config in (CONFIG, {}):
        code = loading(card("sft", META | {"prompts": prompts}, config, Base()))
        compile(code, "README.md", "exec")
        (line,) = [line for line in code.splitlines() if line.startswith("messages = ")]
        messages = ast.literal_eval(line.removeprefix("messages = "))
        assert [m["content"] for m in messages] == [system, "…"]
        assert "messages, tools=tools, add" in code
        start = code.partition("tools = ")[2].partition("inputs = ")[0]
        assert str(ast.literal_eval(start)) == str(tools)  # in the same order


@pytest.mark.parametrize("base", [
    Base(), Base(file="x.gguf"), Base("/models/base"), Base("org/base", "main", "x.gguf", True),
])  # fmt: skip
def test_the_code_of_every_card_is_python(base: Base) -> None:
    for config in (CONFIG, {}):
        compile(loading(card("sft", META, config, base)), "README.md", "exec")
    # A name from outside can't leave its string or its line.
    base = base._replace(source='x")\nimport os #', file="y")
    compile(loading(card("sft", META, CONFIG, base)), "README.md", "exec")
    assert "\nimport os" not in card("sft", META, CONFIG, base)
    assert json.dumps(base.source) in loading(card("sft", META, CONFIG, base))


def copied(folder: Path, base: Model, refs: dict[str, Path] | None = None) -> tuple[Any, str, str]:
    """(adapter_config.json, README.md, what the user is told) of a completed copy."""
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, "revision": None}))
    (folder / "README.md").write_text("as it was")
    adapter = Model(folder, meta=META, refs={"base": base})
    (line,) = complete_copy("sft", adapter, folder, refs or {})
    config = json.loads((folder / "adapter_config.json").read_text())
    return config, (folder / "README.md").read_text(), line


def test_a_copy_names_the_repository_of_its_base_with_the_commit(tmp_path: Path) -> None:
    base = Model(tmp_path, meta={"repo": "org/base"}, runtime={"revision": "b" * 40})
    config, readme, line = copied(tmp_path / "copy", base)
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", "b" * 40)
    assert f'revision="{"b" * 40}"' in readme
    assert line == f"base: org/base at {'b' * 12}, from the Hub"


@pytest.mark.slow
def test_peft_loads_an_exported_adapter_in_another_process(
    project: MakeProject, tmp_path: Path
) -> None:
    made = project({"recipe.yaml": RECIPE, "rows.jsonl": ROWS})
    tiny_llama(tmp_path / "model")
    assert made.run("build", timeout=300).code == 0
    assert '"content": "0: my card"' in made.run("show", "sft").out  # an example for servers
    stored = made.folder / "build" / "t" / "sft"
    assert str(tmp_path) not in (stored / "README.md").read_text()
    for arguments in (["out"], ["whole", "--with-base"]):
        ran = made.run("export", "sft", *arguments)
        assert ran.code == 0, ran.err
        assert "base: " in ran.out
        command = [sys.executable, "-c", LOADS, str(made.folder / arguments[0])]
        loaded = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert loaded.stdout.startswith("PeftModelForCausalLM "), loaded.stderr
    assert Base.stated_in({"repo": "a/b"}).on_hub
