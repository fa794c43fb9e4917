"""`serve.check` with a real vLLM: what is right passes, and each planted fault is named."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from serving import ROWS, THINKING
from tiny_gguf import CHATML
from tiny_llama import tiny_tokenizer
from vllm_models import needs_vllm, roomy_base, tiny_adapter

from finery import Bundle, Dataset, Metrics, Model, RequirementError
from finery.testing import TestJob, dataset, run_step
from finery_eval.steps.exact import Exact
from finery_serve.check.step import Check
from finery_vllm.bundle.step import VllmBundle
from finery_vllm.installation import VARIABLE

slow = pytest.mark.slow
OTHER = CHATML.replace("assistant\n", "assistant:\n")
EAGER: dict[str, str | int | float | bool] = {"enforce-eager": True}
"""Saves the minute in which vLLM compiles."""


def adapter(folder: Path, name: str, base: Model, seed: int) -> Model:
    model = tiny_adapter(folder / name, base, seed=seed, scale=0.2)
    model.ref = name
    return model


def bundle(folder: Path, *models: Model) -> Bundle:
    step = VllmBundle(models=list(models), options=EAGER)
    step.check()
    return step.run(TestJob(folder))


def check(folder: Path, served: Bundle, *models: Model, **settings: Any) -> tuple[Check, Metrics]:
    step = Check(
        models=list(models), rows=dataset(folder / "rows", ROWS), bundle=served, **settings
    )
    made = run_step(step, folder / "step")
    assert isinstance(made, Metrics)
    return step, made


def faults(metrics: Metrics) -> dict[str, dict[str, str]]:
    """Model → kind → what is wrong."""
    found: Mapping[str, list[dict[str, str]]] = metrics.report().data()["details"]["faults"]
    return {name: {f["kind"]: f["what"] for f in of} for name, of in found.items()}


def shift_names(file: Path) -> None:
    """Name an adapter's layers as in a base that wraps a language model."""
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    named = {
        n.replace(".model.layers", ".model.language_model.layers"): t for n, t in tensors.items()
    }
    assert named.keys() != tensors.keys()
    save_file(named, file, metadata={"format": "pt"})


@slow
@needs_vllm
def test_each_fault_of_an_adapter_is_found_and_the_others_pass(tmp_path: Path) -> None:
    """One server with two right adapters, and three with a fault each."""
    base = roomy_base(tmp_path / "base")
    names = ("right", "second", "shifted", "swapped", "template")
    models = [adapter(tmp_path, name, base, seed) for seed, name in enumerate(names)]
    served = bundle(tmp_path / "bundle", *models)
    folders = served.path / "adapters"
    shift_names(folders / "shifted" / "adapter_model.safetensors")
    second = folders / "second" / "adapter_model.safetensors"
    shutil.copyfile(second, folders / "swapped" / "adapter_model.safetensors")
    tiny_tokenizer(OTHER).save_pretrained(str(models[4].path))
    judge = Exact(
        models=[Model.placeholder("models")], rows=Dataset.placeholder("rows"), max_tokens=6
    )
    step, made = check(tmp_path, served, *models, base=base, judge=judge)
    found = faults(made)
    assert {name: {*of} for name, of in found.items()} == {
        "right": set(), "second": set(), "shifted": {"adapter"}, "swapped": {"adapter"},
        "template": {"template"},
    }  # fmt: skip
    assert "another chat template than the training" in found["template"]["template"]
    assert "the server answers as 'second'" in found["swapped"]["adapter"]
    with pytest.raises(RequirementError, match="doesn't answer as the model was trained") as raised:
        step.verify({"": made})
    shown = "\n".join(raised.value.details)
    assert "shifted: adapter: vLLM answers with the adapter 'shifted' as it does without" in shown
    assert "template: template:" in shown
    assert ">>>'\\n'" in shown  # where the prompts differ
    scores = made.report().data()["scores"]
    for name in ("right", "second"):
        own = scores[name]
        assert (own["prompts"], own["answers"], own["lost"]) == (1.0, 1.0, 0.0)
        assert own["accuracy"] == scores[f"{name} in finery"]["accuracy"]
    assert scores["template"]["prompts"] == 0.0
    assert scores["swapped"]["answers"] < 1.0
    assert made.report().data()["details"]["servers"]["right"].startswith("vLLM 0.")


@slow
@needs_vllm
def test_each_fault_of_a_server_is_found(tmp_path: Path) -> None:
    """Somebody starts it by hand, with the model's own template and defaults."""
    base = roomy_base(tmp_path / "base")
    tiny_tokenizer(THINKING).save_pretrained(str(base.path))
    model = adapter(tmp_path, "sft", base, 0)
    served = bundle(tmp_path / "bundle", model)
    (served.path / "chat_template.jinja").write_text(THINKING)
    described = json.loads((served.path / "serve.json").read_text())
    place = described["arguments"].index("--override-generation-config")
    del described["arguments"][place : place + 2]
    generation = served.path / "generation" / "generation_config.json"
    sampling = {"temperature": 0.7, "repetition_penalty": 1.3}
    generation.write_text(json.dumps(json.loads(generation.read_text()) | sampling))
    switched = ["--default-chat-template-kwargs", '{"enable_thinking": true}']
    described["arguments"] += switched
    (served.path / "serve.json").write_text(json.dumps(described))
    found = faults(check(tmp_path, served, model)[1])["sft"]
    assert found.keys() == {"thinking", "sampling", "options"}
    assert "with enable_thinking: true, which the training didn't" in found["thinking"]
    assert "with temperature: 0.7, repetition_penalty: 1.3 where" in found["sampling"]
    assert "run.sh has other options than serve.json" in found["options"]


RECIPE = """\
finery: 1
name: t
models:
  base: {use: local.model, path: base}
data:
  rows: {use: data.file, path: rows.jsonl}
train:
  late: &train
    use: trl.sft
    model: base
    rows: rows
    epochs: 8
    effective_batch_size: 1
    learning_rate: 5e-3
    lora: {r: 4}
  lost: {<<: *train, lora: {r: 8}, epochs: 4}
export:
  serve: {use: vllm.bundle, models: [late, lost], options: {enforce-eager: true}}
evaluate:
  served:
    use: serve.check
    bundle: serve
    models: [late, lost]
    rows: rows
    base: base
    judge: {use: eval.exact, max_tokens: 4}
    require: {late.accuracy: ">= 0.9", late.prompts: ">= 1", late.lost: "<= 0"}
"""


@slow
@needs_vllm
def test_a_build_trains_bundles_and_checks(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    named = {name: value for name, value in os.environ.items() if name == VARIABLE}
    project = Project(tmp_path)
    project.env = named
    roomy_base(tmp_path / "base")
    rows = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    project.write({"recipe.yaml": RECIPE, "rows.jsonl": rows})
    ran = project.run("build", timeout=900)
    assert ran.code == 0, ran.err
    shown = project.run("show", "served").out
    assert "late" in shown
    assert "prompts" in shown
    assert project.ran() == []
    parts = project.run("explain", "served", "--all").out
    assert "vllm" in parts
