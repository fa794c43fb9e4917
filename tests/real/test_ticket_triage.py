"""The shipped recipe from clean, killed in mid-training on the way."""

import glob
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import MakeProject, Project

RECIPE = Path(__file__).parents[2] / "recipes" / "ticket-triage"
SHORTER = tuple(
    part
    for text in ("train.sft.epochs=1", "data.tickets.take=420", "data.unseen.take=36")
    for part in ("--set", text)
)
"""One epoch, a third of the rows: enough to tell a model that learned."""
CHECKPOINTS = ("--set", "train.sft.save_steps=10")
"""A checkpoint to be killed after, long before the epoch's end; no part of the key."""


@pytest.mark.real
def test_the_recipe_builds_though_it_is_killed(project: MakeProject) -> None:
    made = project({})
    shutil.copytree(RECIPE, made.folder, dirs_exist_ok=True)
    _kill_in_training(made)
    log = made.folder / "second.jsonl"
    with log.open("w") as out:
        second = made.start("build", "--json", *SHORTER, stdout=out, stderr=subprocess.DEVNULL)
        assert second.wait(timeout=1500) == 0
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert _first_step_reported(events) > 1, "the training began anew"
    assert events[-1]["ok"]
    _check_scores(made)
    _check_the_model_answers(made)
    assert made.ran(*SHORTER) == []


def _kill_in_training(made: Project) -> None:
    """Start a build; SIGKILL its whole group when a checkpoint of the training is whole."""
    process = made.start(
        "build", *SHORTER, *CHECKPOINTS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 900
    whole = made.folder / ".finery" / "work" / "*.scratch" / "**" / "complete.json"
    while not glob.glob(str(whole), recursive=True):  # Path.glob fails if a folder goes meanwhile
        assert process.poll() is None, "the build ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _first_step_reported(events: list[dict[str, object]]) -> int:
    """The optimizer step at which the second build's training first reported."""
    done = [e["done"] for e in events if e["event"] == "step_progress" and e["step"] == "sft"]
    return next(int(d) for d in done if isinstance(d, int | float) and d > 0)


def _check_scores(made: Project) -> None:
    folder = made.folder / "build" / "ticket-triage"
    judged = json.loads((folder / "test" / "metrics.json").read_text("utf-8"))["scores"]
    exported = json.loads((folder / "exported" / "metrics.json").read_text("utf-8"))["scores"]
    tuned = judged["sft"]["accuracy"]
    assert tuned - max(judged["base"]["accuracy"], judged["prompted"]["accuracy"]) >= 0.1
    assert judged["sft"]["valid"] >= 0.95
    assert abs(exported["gguf.q8_0"]["accuracy"] - tuned) <= 0.08
    served = json.loads((folder / "served" / "metrics.json").read_text("utf-8"))["scores"]
    assert served["gguf.q8_0"]["prompts"] == 1.0
    assert served["gguf.q8_0"]["lost"] <= 0.05


def _check_the_model_answers(made: Project) -> None:
    """llama.cpp loads the file that is shipped, and answers in the trained format."""
    from finery import Model
    from finery.testing import TestJob

    folder = made.folder / "build" / "ticket-triage" / "ollama"
    file = next(folder.glob("*.gguf"))
    ticket = "Classify this support ticket\n\nI was charged twice for one order, give it back now!"
    model = Model(folder, meta={"format": "gguf", "file": file.name})
    model.digest = "shipped"
    engine = TestJob(made.folder / "job").engine(model)
    (answer,) = engine.generate([[{"role": "user", "content": ticket}]], max_tokens=32)
    assert [line.partition(":")[0] for line in answer.text.splitlines()] == [
        "category",
        "priority",
        "sentiment",
    ]
