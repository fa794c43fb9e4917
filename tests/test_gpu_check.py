"""`make gpu-check` in its dry mode: tiny models on a CPU, and what it does without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import running, until

ROOT = Path(__file__).parents[1]
CHECKS = ROOT / "benchmarks" / "gpu"
sys.path.append(str(CHECKS.parent))

from gpu.catalog import CHECKS as CATALOG  # noqa: E402
from gpu.check import Check, Place  # noqa: E402
from gpu.runner import run_one  # noqa: E402


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(CHECKS), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_every_check_ends_with_one_line(tmp_path: Path) -> None:
    ran = run("--device", "cpu", "--tiny", "--at-once", "2", cwd=tmp_path)
    results = [json.loads(line) for line in ran.stdout.splitlines()]
    assert sorted(r["check"] for r in results) == sorted(c.name for c in CATALOG), ran.stderr
    for result in results:
        assert result["status"] in ("ok", "failed", "missing")
        assert result["status"] == "ok" or result["reason"], result
    needs_gpu = {check.name for check in CATALOG if check.gpus}
    assert {r["check"] for r in results if r["status"] == "missing"} >= needs_gpu
    assert [r for r in results if r["status"] == "failed"] == []
    written = (tmp_path / "build" / "gpu-check.md").read_text(encoding="utf-8")
    assert all(f"| {check.name} |" in written for check in CATALOG)


@pytest.mark.slow
def test_without_a_gpu_it_says_so_in_a_sentence(tmp_path: Path) -> None:
    ran = run(cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("No GPU can be used here")
    assert len(ran.stderr.splitlines()) == 1


def test_a_check_is_ended_at_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    mark = f"GPU_CHECK_{os.getpid()}"
    sleeping = tmp_path / "sitecustomize.py"
    sleeping.write_text("import subprocess; subprocess.run(['sleep', '60'])\n", encoding="utf-8")
    place = Place(tmp_path, tmp_path, "cuda", True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), mark: "1"}
    result = run_one(Check("versions", "machine:versions", 1), place, 1e12, environment)
    assert (result.status, result.limit) == ("failed", 1)
    assert "It ran longer than 1 s" in result.reason
    until(lambda: not running(mark))


def test_the_table_in_the_docs_is_the_estimate() -> None:
    from gpu.sizes import table

    text = (ROOT / "docs" / "howto" / "gpu.md").read_text(encoding="utf-8")
    assert table() in text, "stale: put in what `python benchmarks/gpu/sizes.py` prints"
