"""`eval.retention`: what a model forgot, on tiny models and on the same items everywhere."""

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject
from hypothesis import assume, given
from hypothesis import strategies as st
from needs import need
from tiny_llama import tiny_llama

from finery import File, Metrics, Model, RequirementError
from finery.testing import TestJob, table_model
from finery_retention.retention import Retention
from finery_retention.tasks import TASKS, items_of
from finery_retention.text import PASSAGE, SHIPPED, passages

need("reasoning_gym")

TEXT_BYTES = 2500
ITEMS = "7808099d1a168fc6"
"""Digest of the first items of all tasks. It changes only with a version of reasoning-gym."""
DIGEST = """
import hashlib, json
from finery_retention.tasks import TASKS, items_of
items = [[i.id, i.question, i.expected, i.messages] for t in TASKS for i in items_of(t, 10, 3)]
print(hashlib.sha256(json.dumps(items, ensure_ascii=False).encode()).hexdigest()[:16])
"""


@pytest.mark.slow
def test_items_are_the_same_on_every_machine() -> None:
    """Also with another hash seed, time zone and language."""
    elsewhere = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C", "LANG": "C"}
    ran = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", DIGEST], env={**os.environ, **elsewhere},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    items = [[i.id, i.question, i.expected, i.messages] for t in TASKS for i in items_of(t, 10, 3)]
    here = hashlib.sha256(json.dumps(items, ensure_ascii=False).encode()).hexdigest()[:16]
    assert ran.stdout.strip() == here == ITEMS


@pytest.mark.parametrize("task", TASKS)
def test_the_right_answer_of_an_item_is_accepted_and_others_arent(task: str) -> None:
    items = items_of(task, 12, 2)
    assert len({item.question for item in items}) == 12
    for item in items:
        assert item.is_solved(f" {item.expected}\nBecause.")
        assert not item.is_solved("")
        assert not item.is_solved("category: billing")
        assert not item.is_solved("__import__('os').abort()")
        assert not item.is_solved("[" * 100_000)
        assert item.messages[-1]["content"] == item.question
        assert len(item.messages) == 2 * 2 + 1


@given(st.text(st.sampled_from("aé天😀 \n\t\u3000"), max_size=2500), st.integers(500, 4000))
def test_passages_are_the_text_but_for_whitespace(
    tmp_path_factory: pytest.TempPathFactory, text: str, limit: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.txt"
    file.write_text(text, encoding="utf-8", newline="")
    assume(text.strip())
    parts = passages(file, limit)
    assert sum(len(part.encode()) for part in parts) <= limit
    assert all(0 < len(part.encode()) <= 2 * PASSAGE + len("\n\n") for part in parts)
    assert "".join(text.split()).startswith("".join("".join(parts).split()))


# -- tiny models ---------------------------------------------------------------------------------


def trained(model: Model, folder: Path, texts: list[str], steps: int, rate: float) -> Model:
    """A copy of a model, trained on texts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model.path)
    network: Any = AutoModelForCausalLM.from_pretrained(model.path)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    ids = [torch.tensor([tokenizer(text)["input_ids"]]) for text in texts]
    for step in range(steps):
        batch = ids[step % len(ids)]
        loss = network(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    made = Model(folder, meta={"format": "transformers", "name": folder.name})
    made.ref = folder.name
    return made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> dict[str, Model]:
    """A base that learned some English, the same again, and one that was then trained too hot."""
    folder = tmp_path_factory.mktemp("models")
    raw = tiny_llama(folder / "raw", width=64)
    base = trained(raw, folder / "base", passages(SHIPPED, TEXT_BYTES), 150, 1e-2)
    same = trained(base, folder / "same", ["x y z"], 0, 1e-2)
    hot = trained(base, folder / "hot", ["category: billing, priority: high"], 30, 5e-2)
    return {"base": base, "same": same, "hot": hot}


def step(models: list[Model], **settings: Any) -> Retention:
    given: dict[str, Any] = {"models": models, "tasks": [], "text_bytes": TEXT_BYTES}
    return Retention(**given | settings)


def run(folder: Path, retention: Retention) -> tuple[Metrics, str]:
    """(metrics, log)."""
    job = TestJob(folder)
    metrics = retention.run(job)
    return metrics, "\n".join(e["message"] for e in job.events if e["event"] == "log")


@pytest.fixture(scope="module")
def measured(
    models: dict[str, Model], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Metrics, str]:
    return run(tmp_path_factory.mktemp("job"), step(list(models.values())))


@pytest.mark.slow
def test_a_model_that_was_trained_too_hot_is_caught(
    measured: tuple[Metrics, str], models: dict[str, Model]
) -> None:
    metrics, log = measured
    (remark,) = metrics.report().data()["details"]["remarks"]  # none on the untouched model
    assert remark["text"].startswith("hot forgot: its perplexity on general text is")
    assert "lower learning rate" in remark["advice"]
    assert "hot forgot (text, -" in log
    assert "same kept what it knew (text, 0.0 points" in log
    gate = {"hot.byte_probability": "not worse than base by 0.05"}
    with pytest.raises(RequirementError, match="It is worse by more than that"):
        step(list(models.values()), require=gate).verify({"": metrics})
    gate = {"same.byte_probability": "not worse than base by 0.05"}
    step(list(models.values()), require=gate).verify({"": metrics})


@pytest.mark.slow
def test_the_likelihood_is_that_of_the_model(
    measured: tuple[Metrics, str], models: dict[str, Model]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metrics, _ = measured
    path = models["base"].path
    tokenizer: Any = AutoTokenizer.from_pretrained(path)
    network: Any = AutoModelForCausalLM.from_pretrained(path)
    nats = tokens = size = 0.0
    for text in passages(SHIPPED, TEXT_BYTES):
        ids = tokenizer(text)["input_ids"]
        with torch.no_grad():
            logprobs = network(torch.tensor([ids])).logits[0].log_softmax(-1)
        nats -= sum(float(logprobs[i - 1, ids[i]]) for i in range(1, len(ids)))
        tokens += len(ids) - 1
        size += len(text.encode()) - len(tokenizer.decode(ids[:1]).encode())
    scores = metrics.report().data()["scores"]["base"]
    assert scores["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=0.02)
    assert scores["bits_per_byte"] == pytest.approx(nats / size / math.log(2), rel=0.01)
    assert scores["byte_probability"] == pytest.approx(math.exp(-nats / size), rel=0.01)
    low, high = metrics.report().data()["intervals"]["base"]["perplexity"]
    assert low < scores["perplexity"] < high


@pytest.mark.slow
def test_differences_are_paired_and_stored_for_gates(measured: tuple[Metrics, str]) -> None:
    metrics, _ = measured
    pairs = {(p["model"], p["baseline"]): p for p in metrics.report().data()["details"]["pairs"]}
    assert set(pairs) == {("same", "base"), ("hot", "base"), ("hot", "same")}
    same = pairs["same", "base"]["metrics"]["byte_probability"]
    assert same == {"difference": 0, "interval": [0, 0], "p_value": 1}
    hot = pairs["hot", "base"]["metrics"]["byte_probability"]
    assert hot["interval"][0] < hot["difference"] < hot["interval"][1] < -0.05
    assert hot["p_value"] == 2 / 2 ** len(passages(SHIPPED, TEXT_BYTES))  # worse in each passage


@pytest.mark.slow
def test_a_recipe_is_planned_with_the_shipped_text(project: MakeProject) -> None:
    evaluated = "evaluate: {forgot: {use: eval.retention, models: tiny}}"
    local = "models: {tiny: {use: local.model, path: tiny}}"
    made = project({"recipe.yaml": f"finery: 1\nname: t\n{local}\n{evaluated}\n"})
    tiny_llama(made.folder / "tiny")
    for _ in range(2):
        ran = made.run("plan")
        assert ran.code == 0, ran.err


# -- tasks, with models that answer from a table -------------------------------------------------


def knows(folder: Path, name: str, share: float) -> Model:
    """A model that knows the first items of each task."""
    items = [item for task in ("sums", "reversal") for item in items_of(task, 20, 3)]
    answers = {
        item.question: item.expected
        for item in items
        if int(item.id.rpartition("-")[2]) <= 20 * share
    }
    made = table_model(folder / name, answers, "category: billing")
    made.ref = name
    return made


def test_lost_abilities_are_told_by_task(tmp_path: Path) -> None:
    able, lost, nearly = (
        knows(tmp_path, name, share) for name, share in (("base", 1), ("sft", 0.5), ("ok", 0.95))
    )
    text = File(["none"])
    retention = step([able, lost, nearly], tasks=["sums", "reversal"], items=20, text=text)
    metrics, log = run(tmp_path / "job", retention)
    report = metrics.report().data()
    assert {name: of["solved"] for name, of in report["scores"].items()} == {
        "base": 1.0, "sft": 0.5, "ok": 0.95,
    }  # fmt: skip
    first, second = report["details"]["remarks"]
    assert first["text"].startswith("sft forgot: it solves 50.0 % of the general tasks, base 100")
    assert second["text"].startswith("it is unclear from the tasks whether ok forgot: -5.0 points")
    assert "ok may have forgotten: too few items to tell" in log
    tables = {t["title"]: t["rows"] for t in report["details"]["tables"]}
    assert tables["Tasks"] == [["sums", 20, 1, 0.5, 0.95], ["reversal", 20, 1, 0.5, 0.95]]
    wrong = [p for p in metrics.predictions() if p.get("correct") is False]
    assert {p["model"] for p in wrong} == {"sft", "ok"}
