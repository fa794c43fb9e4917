"""Trainings that cannot work, through the real command: one clear error each, no leftovers."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Project
from needs import may_lack
from tiny_llama import CHATML, tiny_llama

from finery_trl.train.messages import exhaustion

STEPS = '''
from finery import Dataset, Job, Step, hookimpl, setting


class Rows(Step, seeded=False):
    """Rows that are wrong in a given way."""

    fault: str = setting("", help="What is wrong with them.")

    def run(self, job: Job) -> Dataset:
        def row(i):
            prompt = [{"role": "user", "content": f"where is my card {i}"}]
            if self.fault == "long":
                prompt[0]["content"] *= 30
            if self.fault in ("alike", "pair"):
                worse = "late" if self.fault == "alike" else "wrong"
                return {"prompt": prompt, "chosen": [say("late")], "rejected": [say(worse)]}
            return {"prompt": prompt, "completion": [say("" if self.fault == "empty" else "late")]}

        def say(text):
            return {"role": "assistant", "content": text}

        return Dataset.write(job.out, map(row, range(8)))


@hookimpl
def finery_steps():
    return {"wrong.rows": Rows}
'''
RECIPE = """
finery: 1
name: t
plugins: [./wrong.py]
silence: [few-rows, no-evaluator, no-validation, preference-first, learning-rate, epochs]
models:
  tiny: {use: local.model, path: tiny}
  bare: {use: local.model, path: bare}
  endless: {use: local.model, path: endless}
  wide: {use: local.model, path: wide}
data:
  rows: {use: wrong.rows}
  empty: {use: wrong.rows, fault: empty}
  long: {use: wrong.rows, fault: long}
  alike: {use: wrong.rows, fault: alike}
train:
"""
BROKEN = {
    "masked": ("trl.sft, model: tiny, rows: empty", "8 of 8 rows"),
    "endless_sft": (
        "trl.sft, model: endless, rows: rows",
        "doesn't end an answer with a special",
    ),
    "same": (
        "trl.dpo, model: tiny, rows: alike",
        "8 rows have equal chosen and rejected answers",
    ),
    "too_long": ("trl.sft, model: tiny, rows: long, max_length: 64", "64 tokens"),
    "untemplated": ("trl.sft, model: bare, rows: rows", "the model has no chat template"),
    "layerless": (
        "trl.sft, model: tiny, rows: rows, lora: {target_modules: [up]}",
        "no layer 'up'",
    ),
    "not_a_number": (
        "trl.sft, model: tiny, rows: rows, learning_rate: 1e30, effective_batch_size: 2",
        "training diverged",
    ),
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Models in folders."""
    made = Project(tmp_path)
    tiny_llama(tmp_path / "tiny")
    tiny_llama(tmp_path / "wide", width=64)
    tiny_llama(tmp_path / "bare", None)
    tiny_llama(tmp_path / "endless", CHATML.replace("<|im_end|>", ""))
    without_end(tmp_path / "endless")
    made.write({"wrong.py": STEPS})
    return made


def without_end(folder: Path) -> None:
    """Take the end-of-sequence token out of a model's tokenizer; padding is another."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("eos_token")
    path.write_text(json.dumps({**config, "pad_token": "<|im_start|>"}))


@pytest.mark.slow
def test_each_broken_training_ends_in_one_clear_error(project: Project) -> None:
    steps = "".join(
        f"  {name}: {{use: {settings}, epochs: 1}}\n" for name, (settings, _) in BROKEN.items()
    )
    project.write({"recipe.yaml": RECIPE + steps})
    events = project.events("--keep-going")
    failed = {e["step"]: e["error"] for e in events if e["event"] == "step_failed"}
    assert failed.keys() == BROKEN.keys()
    for name, (_, said) in BROKEN.items():
        assert said in failed[name]["what"], failed[name]
        assert failed[name]["fix"]
        assert not (project.folder / "build/t" / name).exists()
    left = {p.name for p in (project.folder / ".finery/work").glob("*/out/*")}
    assert left == set()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 3 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "finery-test", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip(may_lack("mounting a small disk needs root"))
    yield folder
    # Lazily: the error of a failed write may still hold its file.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("free", range(0, 4 << 10, 300))
def test_a_checkpoint_on_a_full_disk_is_named(small_disk: Path, free: int) -> None:
    with (small_disk / "filler").open("wb") as filler, contextlib.suppress(OSError):
        filler.write(b"x" * (4 << 20))
    os.truncate(small_disk / "filler", (small_disk / "filler").stat().st_size - free * 16)
    state = {f"tensor {n}": torch.zeros(1000) for n in range(40)}
    with pytest.raises((OSError, RuntimeError)) as caught:
        torch.save(state, small_disk / "optimizer.pt")
    facts: Any = SimpleNamespace(folder=small_disk)
    said = exhaustion(caught.value, facts, facts)
    assert said is not None
    assert "disk" in said.what


@pytest.mark.slow
def test_a_full_disk_stops_a_training_that_then_goes_on(project: Project, small_disk: Path) -> None:
    project.env["FINERY_STORE"] = str(small_disk / "store")
    settings = "use: trl.sft, model: wide, rows: rows, lora: null, epochs: 2, learning_rate: 1e-3"
    project.write({"recipe.yaml": f"{RECIPE}  sft: {{{settings}}}\n"})
    project.run("build", "--step", "rows", "--step", "wide")
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (2 << 20))
    ran = project.run("build", "--step", "sft")
    assert ran.code in (1, 2)
    assert "Traceback" not in ran.err
    assert "disk" in ran.err
    filler.unlink()
    assert project.ran("--step", "sft") == ["sft"]
