"""A training that is repeated, and one that is killed: both end with the same bytes."""

import hashlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from gpu import models, rows
from gpu.check import Facts, Failed, Place
from gpu.checks.trainings import common
from gpu.project import Project, end_of, recipe

MARK = ".finery/**/checkpoint-*/complete.json"
"""A checkpoint that is complete."""
AGAIN = re.compile(r"continuing from optimizer step (\d+)")
PATIENCE = 80
"""Seconds to wait for the first one."""


def same_bytes(place: Place) -> Facts:
    """Train twice with the same seed."""
    first, second = (digest(_built(place, place.folder / name)) for name in ("one", "two"))
    if first != second:
        raise Failed("two trainings with the same seed and rows gave different adapters")
    (place.shared / "digest").write_text(first, encoding="utf-8")
    return {"sha256": first[:16]}


def resume(place: Place) -> Facts:
    """Kill a training after its first checkpoint, build again, compare with a whole one."""
    project = _project(place, place.folder / "killed", save_steps=1)
    process = project.start("build")
    if not _killed(process, project.folder):
        raise Failed(f"the training ended before it could be killed: {end_of(_rest(process))}")
    project.build()
    again = AGAIN.search(project.logs())
    if again is None:
        raise Failed("the training began again instead of continuing from its checkpoint")
    known = place.shared / "digest"
    whole = known.read_text() if known.exists() else digest(_built(place, place.folder / "whole"))
    if digest(project) != whole:
        raise Failed("the resumed training gave another adapter than one without a break")
    return {"continued_from_step": int(again[1])}


def _killed(process: "subprocess.Popen[str]", folder: Path) -> bool:
    """Kill a build as soon as there is a checkpoint; whether it still ran."""
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        if any(folder.glob(MARK)):
            process.kill()
            process.wait()
            return True
        time.sleep(0.02)
    return False


def _rest(process: "subprocess.Popen[str]") -> str:
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    return process.communicate()[0]


def _built(place: Place, folder: Path) -> Project:
    project = _project(place, folder)
    project.build()
    return project


def _project(place: Place, folder: Path, **settings: Any) -> Project:
    size = 2 if place.tiny else 4
    steps = 40 if place.tiny else 20
    data = rows.answer_rows(size * steps, 48 if place.tiny else 256)
    step = {**common(size), "lora": {"lora_dropout": 0.1}, **settings}
    made = recipe(folder, models.model(place, "small"), data, train={"training": step})
    return Project(folder, made)


def digest(project: Project) -> str:
    """Of the adapter's weights."""
    content = (project.output("training") / "adapter_model.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest()
