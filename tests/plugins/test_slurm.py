"""Steps as Slurm jobs, on a cluster of two nodes that the tests start."""

import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import slurm
import yaml
from conftest import MakeProject, Project, until
from tiny_llama import TEXT, tiny_llama

from finery.execute.executor import Executor
from finery.testing.executors import DetachedContract
from finery.util.files import hash_file
from finery_slurm.executor import SlurmExecutor, SlurmOptions

pytestmark = [
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing()),
    pytest.mark.slow,
    pytest.mark.cluster,
]
CONFIGURATION = '[executors]\ndefault = "slurm"\n[slurm]\ngres = ""\n'
BEGINS = "job.scratch.mkdir(exist_ok=True)\n(job.scratch / str(os.getpid())).touch()\n"
UNTIL_GO = "import time\nwhile not os.path.exists('go'): time.sleep(0.02)\n"
ROW = "rows.append({'prompt': 'p'})\n"


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Path]:
    """The cluster, which Slurm's commands find."""
    with slurm.cluster() as configuration, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        yield configuration


class TestContract(DetachedContract):
    """The contract of executors."""

    own_lines = "(submitted as|continues with)? ?Slurm job"

    def executor(self, jobs: int | None) -> Executor:
        return SlurmExecutor(jobs, SlurmOptions(gres=""))


def step(code: str, **settings: Any) -> dict[str, Any]:
    """A step that runs some Python."""
    return {"use": "steps.script", "code": code, **settings}


def recipe(steps: dict[str, Any], **more: Any) -> dict[str, str]:
    """The files of a project whose steps are jobs."""
    written = {"finery": 1, "name": "t", "plugins": ["./steps.py"], "data": steps, **more}
    return {"recipe.yaml": yaml.safe_dump(written), "finery.toml": CONFIGURATION}


def ids() -> list[str]:
    """Ids of all jobs so far."""
    command = ["squeue", "-h", "-r", "--me", "-t", "all", "-o", "%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def digests(t: Project) -> dict[str, str]:
    """File → digest of what is built."""
    files = [path for path in (t.folder / "build").rglob("*") if path.is_file()]
    return {str(f.relative_to(t.folder)): hash_file(f) for f in files}


def attempts(t: Project) -> list[Path]:
    """The files that running `BEGINS` left in scratch folders."""
    return [*t.folder.glob(".finery/work/*.scratch/*")]


@pytest.mark.quick
def test_a_build_on_slurm_equals_a_local_one(project: MakeProject) -> None:
    lines = step("rows += [{'prompt': str(n)} for n in range(20)]", resources={"cpus": 1})
    t = project(recipe({"lines": lines, "mixed": {"use": "steps.shuffle", "rows": "lines"}}))
    ran = t.run("build")
    assert ran.code == 0, ran.err
    assert "lines  steps.script  submitted as Slurm job" in ran.err
    there, before = digests(t), ids()
    shutil.rmtree(t.folder / ".finery")
    assert t.run("build", "--executor", "local").code == 0, "which is the default for others"
    (t.folder / "finery.toml").unlink()
    shutil.rmtree(t.folder / ".finery")
    assert t.run("build").code == 0
    assert digests(t) == there
    assert len(ids()) == len(before)


def test_a_killed_build_leaves_its_job_which_the_next_one_finds(project: MakeProject) -> None:
    """Also a build that runs its steps elsewhere by then."""
    code = f"job.log('ready')\n{BEGINS}{UNTIL_GO}{ROW}"
    t, before = project(recipe({"a": step(code)})), ids()
    process = t.start("build")
    until(lambda: attempts(t))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (t.folder / "finery.toml").unlink()
    process = t.start("build")
    assert process.stderr is not None
    err = "".join(iter(process.stderr.readline, "  log     a  steps.script  ready\n"))
    (t.folder / "go").touch()
    err += process.communicate(timeout=120)[1]
    job = (set(ids()) - {*before}).pop()
    assert process.returncode == 0, err
    assert f"continues with Slurm job {job} of an earlier build" in err
    assert len(ids()) == len(before) + 1
    assert not [*t.folder.glob(".finery/work/*.job")]


def test_an_interrupted_build_says_what_continues(project: MakeProject) -> None:
    t = project(recipe({"a": step(BEGINS + UNTIL_GO + ROW)}))
    process = t.start("build")
    until(lambda: attempts(t))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    job = slurm.running().pop()
    assert process.returncode == 130
    assert "1 job left running, which the next build continues with:\n  a: Slurm job" in err
    assert f"To cancel: scancel {job}\n" in err
    assert f"  step a: slurm job {job}\n" in t.run("cache", "gc").out
    assert f"continues with slurm job {job} of an earlier build" in t.run("plan").out
    other = t.run("plan", "--set", "data.a.code=pass").out
    assert f"slurm job {job} of an earlier build doesn't count: a setting," in other
    assert f"to end it: scancel {job}" in other
    subprocess.run(["scancel", job], check=True)
    until(lambda: not slurm.running())
    assert "doesn't count: it ended without a result" in t.run("plan").out
    assert "slurm" not in t.run("cache", "gc", "--dry-run").out
    (t.folder / "go").touch()
    assert t.run("cache", "gc").code == 0
    assert not [*t.folder.glob(".finery/work/*.job")]
    ran = t.run("build")
    assert ran.code == 0, ran.err


def test_a_job_that_waits_does_not_count_after_its_code_changed(project: MakeProject) -> None:
    """It would refuse to start. Even a comment counts, since its node compares whole files."""
    t = project(recipe({"a": step(ROW)}))
    t.edit("finery.toml", 'gres = ""', 'gres = ""\nextra = {hold = true}\n')
    process = t.start("build")
    assert process.stderr is not None
    (job,) = re.findall(r"submitted as Slurm job (\d+)", "".join(islice(process.stderr, 2)))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert f"continues with slurm job {job}" in t.run("plan").out
    t.edit("steps.py", "\nclass Alone", "\n# a comment\nclass Alone")
    why = "doesn't count: steps.py changed before it began"
    assert why in t.run("plan").out
    assert f"  step a: slurm job {job}, which {why}" in t.run("cache", "gc", "--dry-run").out
    t.edit("finery.toml", "extra = {hold = true}", "")
    ran = t.run("build")
    assert ran.code == 0, ran.err
    assert f"Slurm job {job} of an earlier build {why}" in ran.err
    until(lambda: not slurm.running())


def test_a_job_survives_an_outage_of_the_controller(project: MakeProject) -> None:
    """Longer than the build waits, and then shorter."""
    t, before = project(recipe({"a": step(BEGINS + UNTIL_GO + ROW)})), {*ids()}
    process = t.start("build")
    until(lambda: attempts(t))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    fails = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"
    once = f'mkdir {t.folder}/failed 2>/dev/null || exec {shutil.which("squeue")} "$@"'
    for squeue, code in ((fails, 1), (f"{once}; {fails}", 0)):
        t.write({"bin/squeue": f"#!/bin/sh\n{squeue}\n"})
        (t.folder / "bin/squeue").chmod(0o755)
        t.env["PATH"] = f"{t.folder}/bin:{os.environ['PATH']}"
        if code == 0:
            (t.folder / "go").touch()
        ran = t.run("build", timeout=120)
        assert ran.code == code, ran.err
        assert ("may still run" in ran.err) == bool(code)
    assert len({*ids()} - before) == 1


def test_on_a_terminal_an_interrupted_build_asks(project: MakeProject) -> None:
    t = project(recipe({"a": step(BEGINS + UNTIL_GO + ROW)}))
    ours, theirs = pty.openpty()
    process = t.start("build", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    until(lambda: attempts(t))
    process.send_signal(signal.SIGINT)
    shown = b""
    while b"[c/L]" not in shown:
        shown += os.read(ours, 65536)
    os.write(ours, b"c\n")
    assert b"Cancel the job, or leave it running? [c/L]" in shown
    while process.poll() is None:  # a full terminal would block it
        if select.select([ours], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):
                os.read(ours, 65536)
    os.close(ours)
    assert not slurm.running()
    assert not [*t.folder.glob(".finery/work/*.job")]


def test_a_job_continues_after_its_time_limit(project: MakeProject) -> None:
    """By Slurm's notice, which it sends in its own time. It then waits two minutes."""
    code = f"{BEGINS}import time\nif len(list(job.scratch.iterdir())) < 2: time.sleep(600)\n{ROW}"
    t = project(recipe({"a": step(code, resources={"time": "1m"})}))
    t.edit("finery.toml", 'gres = ""', 'gres = ""\nnotice = 58\n')
    process = t.start("build")
    job = slurm.start_again()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err.count(f"Slurm job {job} runs on") == 2


Train = Callable[..., Project]


@pytest.fixture
def training(project: MakeProject, tmp_path: Path) -> Train:
    """Makes a project that trains a tiny model on Slurm."""

    def make(**settings: Any) -> Project:
        pytest.importorskip("trl")
        tiny_llama(tmp_path / "base")
        rows = [{"prompt": f"my card {n}", "completion": TEXT[n % 3]} for n in range(8)]
        sft = {"use": "trl.sft", "model": "base", "rows": "rows", "resources": {"cpus": 2}}
        files = recipe(
            {"rows": {"use": "data.file", "path": "rows.jsonl"}},
            models={"base": {"use": "local.model", "path": "base"}},
            train={"sft": sft | settings},
        )
        t = project({**files, "rows.jsonl": "\n".join(map(json.dumps, rows))})
        t.edit("finery.toml", "default", "train")
        return t

    return make


def weights(t: Project, *arguments: str) -> bytes:
    """The adapter of a new build on this machine."""
    shutil.rmtree(t.folder / ".finery")
    assert t.run("build", "--executor", "local", *arguments, timeout=600).code == 0
    return adapter(t).read_bytes()


def adapter(t: Project) -> Path:
    """The file with the trained weights."""
    return next(t.folder.glob("build/*/*/adapter_model.safetensors"))


def test_a_training_on_slurm_equals_a_local_one(training: Train) -> None:
    t = training(epochs=1)
    ran = t.run("build", timeout=600)
    assert ran.code == 0, ran.err
    assert re.search(r"sft +trl.sft +Slurm job \d+ runs on", ran.err)
    there = adapter(t).read_bytes()
    (t.folder / "finery.toml").unlink()
    assert weights(t) == there


def test_a_training_that_reaches_its_time_limit_equals_an_uninterrupted_one(
    training: Train,
) -> None:
    """Its process is stopped after a checkpoint, so that it can't end before the limit."""
    t = training(epochs=100, resources={"cpus": 2, "time": "2m"})
    t.edit("finery.toml", 'gres = ""', 'gres = ""\nnotice = 40\n')
    process = t.start("build")
    until(lambda: any(t.folder.glob(".finery/work/*.scratch/checkpoints/*/trainer_state.json")))
    command = ["pgrep", "-f", f"finery.execute.job {t.folder}"]
    training_process = os.pidfd_open(int(subprocess.check_output(command)))

    def stays_stopped_until_requeued() -> bool:
        # Slurm resumes it some seconds before its notice.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(training_process, signal.SIGSTOP)
        return slurm.is_requeued()

    until(stays_stopped_until_requeued)
    os.close(training_process)
    slurm.start_again()
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert re.search(r"continuing from optimizer step [1-9]\d* of 100", err), err
    there = adapter(t).read_bytes()
    (t.folder / "finery.toml").unlink()
    assert weights(t) == there


def test_a_training_on_two_nodes_equals_one_in_one_process(training: Train) -> None:
    from safetensors.numpy import load

    t = training(epochs=2, dtype="fp32", launch={"nodes": 2, "processes": 2})
    ran = t.run("build", timeout=600)
    assert ran.code == 0, ran.err
    assert "2 processes on 2 nodes" in ran.err
    there = load(adapter(t).read_bytes())
    (t.folder / "finery.toml").unlink()
    here = load(weights(t, "--set", "train.sft.launch=null"))
    assert all(abs(here[name] - there[name]).max() < 1e-4 for name in there)


def test_only_variants_that_are_not_cached_become_an_array(project: MakeProject) -> None:
    steps: dict[str, Any] = {"a": {"use": "steps.source", "path": "a.txt"}}
    steps["b"] = {"use": "steps.copy", "rows": "a", "tag": 0}
    t = project(recipe(steps, matrix={"data.b.tag": [1, 2]}) | {"a.txt": "x\n"})
    assert t.run("build", "--executor", "local", timeout=60).code == 0
    before = {*ids()}
    t.edit("recipe.yaml", "- 2", "\n".join(f"- {n}" for n in range(2, 7)).replace("\n", "\n  "))
    assert sorted(t.ran()) == [f"b@tag={n}" for n in range(3, 7)]
    new = sorted({*ids()} - before)
    assert [job.partition("_")[2] for job in new] == ["0", "1", "2", "3"], new


def test_another_environment_is_refused_before_work_starts(project: MakeProject) -> None:
    typed = "\nclass Uses(Script, packages=('toydist',)):\n    'Runs some Python.'\n"
    t = project(recipe({"a": step(BEGINS + ROW)}))
    t.edit("steps.py", "\nclass Alone", f"{typed}\n\nclass Alone")
    t.edit("steps.py", '"steps.alone": Alone', '"steps.uses": Uses, "steps.alone": Alone')
    t.edit("recipe.yaml", "steps.script", "steps.uses")
    for place, version in (("here", "1.0"), ("there", "2.0")):
        t.write({f"{place}/toydist-{version}.dist-info/METADATA": ""})
    python = t.folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={t.folder}/there exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    t.env["PYTHONPATH"] = f"{t.folder}/here"
    t.edit("finery.toml", 'gres = ""', f'gres = ""\npython = "{python}"\n')
    ran = t.run("build")
    assert ran.code == 1
    assert "package toydist is 2.0 there and 1.0 here" in ran.err
    assert not attempts(t)


def test_what_ended_a_job_is_said(project: MakeProject) -> None:
    """A killed step runs again as often as `retries` says; a cancelled one doesn't."""
    kills = f"{BEGINS}if len(list(job.scratch.iterdir())) < 2: os.kill(os.getpid(), 9)\n{ROW}"
    t = project(recipe({"a": step(kills)}))
    t.edit("finery.toml", "[executors]", "retries = 1\n[executors]")
    ran = t.run("build")
    assert ran.code == 0, ran.err
    assert "attempt 2 starts" in ran.err
    cancels = "os.system('scancel $SLURM_JOB_ID')\nimport time\ntime.sleep(60)"
    t.write(recipe({"a": step(cancels)}))
    ran = t.run("build")
    assert ran.code == 1
    assert re.search(r"Slurm job \d+ was cancelled", ran.err), ran.err


def test_memory_and_nodes_that_are_lost_are_said(project: MakeProject) -> None:
    uses = "x = b'x' * 700_000_000\nimport time\ntime.sleep(60)\n"
    t = project(recipe({"a": step(uses, resources={"memory": "500MB"})}))
    ran = t.run("build")
    assert ran.code == 1
    assert re.search("ended before it could report: slurmstepd-n1: error: .*memory limit", ran.err)
    assert "ask for more `memory` in `resources`" in ran.err
    t.write(recipe({"a": step(BEGINS + UNTIL_GO + ROW)}))
    t.edit("finery.toml", "[executors]", "retries = 1\n[executors]")
    t.edit("finery.toml", 'gres = ""', 'gres = ""\nextra = {no-requeue = true}\n')
    process = t.start("build")
    until(lambda: attempts(t))
    down = ["scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test"]
    subprocess.run(down, check=True)
    until(lambda: len(attempts(t)) == 2)
    (t.folder / "go").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert re.search("was (interrupted|lost with its node)", err)
    assert err.count("submitted as Slurm job") == 2


def test_what_sacct_says_of_a_forgotten_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded lines, since a cluster without a database has no accounting."""
    lines = "17|OUT_OF_MEMORY\n18|CANCELLED by 0\n19_1|NODE_FAIL"
    for name, printed in (("squeue", "20|RUNNING"), ("sacct", lines)):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{printed}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert SlurmExecutor(None).states(["17", "18", "19_1", "20", "21"]) == {
        "17": "ran out of the memory that it had asked for",
        "18": "was cancelled",
        "19_1": "was lost with its node",
        "20": "",
    }
