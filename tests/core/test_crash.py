"""Builds that are killed, at any moment, and builds that run at once: the store stays right."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import LIGHT_STEPS, MakeProject, Project, running, until

from finery.store.database import Store
from finery.util.files import hash_file
from finery.util.leftovers import earlier_seconds, is_in_use, lock_path

KILLS = 20
CODE = """
for n in range(3):
    (job.scratch / f'part{n}').write_text('x' * 5000)
    time = __import__('time'); time.sleep(0.015)
import hashlib
rows.extend({'prompt': hashlib.sha256(f'{step.code} {n}'.encode()).hexdigest()} for n in range(200))
"""


def quick_recipe() -> str:
    """Twelve steps, a quarter of them in processes of their own, about a second in all."""
    steps: dict[str, dict[str, Any]] = {"rows": {"use": "steps.source", "path": "rows.txt"}}
    for n in range(8):
        use = "steps.alone" if n % 3 == 2 else "steps.script"
        before = [f"s{n - 2}"] if n > 1 else ["rows"]
        steps[f"s{n}"] = {"use": use, "rows": before, "code": f"{CODE}# {n}"}
    steps |= {
        "all": {"use": "steps.copy", "rows": ["s6", "s7"], "tag": 1},
        "halves": {"use": "steps.halve", "rows": "all"},
        "mixed": {"use": "steps.shuffle", "rows": "halves.first"},
    }
    return f"finery: 1\nname: t\nplugins: [./steps.py]\ndata: {json.dumps(steps)}\n"


def results(t: Project) -> dict[str, list[str]]:
    """Key → digests of its outputs, of all keys in the store."""
    store = Store(t.folder / ".finery")
    keys = [k for (k,) in store._db.rows("SELECT key FROM results")]
    found = {key: store.lookup(key) for key in keys}
    store.close()
    return {k: [m.digest for m in r.outputs.values()] for k, r in found.items() if r}


def outputs(t: Project) -> dict[str, str]:
    """What a person sees under `build/`: name → digest of its bytes."""
    found: dict[str, str] = {}
    for top, _, names in os.walk(t.folder / "build", followlinks=True):
        found |= {os.path.relpath(f"{top}/{n}", t.folder): hash_file(Path(top, n)) for n in names}
    return found


def blobs_are_whole(t: Project) -> bool:
    """Whether every blob holds what its name says."""
    blobs = (t.folder / ".finery/objects").glob("*/*")
    return all(hash_file(b) == b.parent.name + b.name for b in blobs)


def at(folder: Path, files: dict[str, str]) -> Project:
    """A project in a folder of its own."""
    folder.mkdir()
    (folder / ".git").mkdir()
    made = Project(folder)
    made.write({"steps.py": LIGHT_STEPS.read_text(), **files})
    return made


@pytest.mark.slow
def test_a_build_killed_at_any_moment_is_taken_up_by_the_next(tmp_path: Path) -> None:
    files = {"recipe.yaml": quick_recipe(), "rows.txt": "a\nb\n"}
    clean, t = at(tmp_path / "clean", files), at(tmp_path / "killed", files)
    began = time.monotonic()
    clean.ran()
    seconds = time.monotonic() - began
    chance, mark = random.Random(20), f"probe-{os.urandom(6).hex()}"
    t.env["MARK"] = mark
    killed = 0
    for attempt in range(KILLS):
        process = t.start("build", "--json")
        time.sleep(seconds * (attempt + chance.random()) / KILLS * 0.9)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        _, err = process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert process.returncode in (0, -signal.SIGKILL), err
        until(lambda: not running(mark))
        if attempt % 3 == 2:  # from the start again, so that late kills find much undone
            shutil.rmtree(t.folder / ".finery", ignore_errors=True)
    assert killed > KILLS / 2
    assert t.run("build").code == 0
    assert t.ran() == []
    assert blobs_are_whole(t)
    assert results(t) == results(clean)
    assert outputs(t) == outputs(clean)
    assert list((t.folder / ".finery/work").iterdir()) == []
    assert sorted(p.name for p in (t.folder / "build/t").iterdir()) == sorted(
        p.name for p in (clean.folder / "build/t").iterdir()
    )


def test_workers_end_when_only_the_main_process_is_killed(project: MakeProject) -> None:
    code = "Path('up{0}').touch(); import time; time.sleep(600)"
    t = project({"recipe.yaml": "finery: 1\nname: t\nplugins: [./steps.py]\ndata: " + json.dumps({
        "a": {"use": "steps.script", "code": code.format(1)},
        "b": {"use": "steps.alone", "code": code.format(2)},
    })})  # fmt: skip
    t.env["MARK"] = f"probe-{os.urandom(6).hex()}"
    process = t.start("build")
    until(lambda: (t.folder / "up1").exists() and (t.folder / "up2").exists())
    process.kill()
    process.communicate()
    until(lambda: not running(t.env["MARK"]))


def test_no_secret_is_in_the_log_of_a_killed_build(project: MakeProject) -> None:
    secret = "a/secret-of-this-test"
    code = """
import json, subprocess, time
secret = job.secret('PROBE_API_KEY')
print('printed', secret, json.dumps(secret).replace('/', chr(92) + '/'), flush=True)
subprocess.run(['sh', '-c', 'echo child $PROBE_API_KEY >&2; printf unfinished-$PROBE_API_KEY'])
Path('up').touch()
time.sleep(600)
"""
    t = project({"recipe.yaml": "finery: 1\nname: t\nplugins: [./steps.py]\ndata: " + json.dumps({
        "a": {"use": "steps.script", "code": code, "env": ["PROBE_API_KEY"]},
    })})  # fmt: skip
    t.env["PROBE_API_KEY"] = secret
    process = t.start("build")
    until(lambda: (t.folder / "up").exists())
    process.kill()
    process.communicate()
    (log,) = (t.folder / ".finery").glob("**/a.log")
    until(lambda: "unfinished-***" in log.read_text())
    assert log.read_text() == 'printed *** "***"\nchild ***\nunfinished-***'


CHILD = """
import subprocess, sys, time
if not Path('again').exists():
    writes = "import sys, time, pathlib; path = pathlib.Path(sys.argv[1], 'child')"
    writes += "\\nwhile True: path.write_text(str(time.time())); time.sleep(.01)"
    for options in OPTIONS:
        subprocess.Popen([sys.executable, '-c', writes, str(job.scratch)], **options)
    while not (job.scratch / 'child').exists(): time.sleep(.01)
    Path('up').touch(); time.sleep(600)
before = (job.scratch / 'child').read_text()
time.sleep(.2)
rows.append({'prompt': str((job.scratch / 'child').read_text() == before)})
"""
ALONE = "{'start_new_session': True}"
SILENT = "{'start_new_session': True, 'stdin': subprocess.DEVNULL}"
UNNAMED = "{'start_new_session': True, 'env': {}}"


@pytest.mark.parametrize("use", ["steps.script", "steps.alone"])
def test_children_of_a_step_end_with_a_killed_build(project: MakeProject, use: str) -> None:
    code = CHILD.replace("OPTIONS", "[{}, {'stdin': subprocess.DEVNULL}]")
    steps = {"a": {"use": use, "code": code}}
    t = project(
        {"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\ndata: {json.dumps(steps)}"}
    )
    t.env["MARK"] = f"probe-{os.urandom(6).hex()}"
    process = t.start("build")
    until(lambda: (t.folder / "up").exists())
    process.kill()
    process.communicate()
    until(lambda: not running(t.env["MARK"]))


@pytest.mark.parametrize("options", [ALONE, SILENT, UNNAMED])
def test_the_next_build_ends_what_still_uses_the_scratch(
    project: MakeProject, options: str
) -> None:
    steps = {"a": {"use": "steps.alone", "code": CHILD.replace("OPTIONS", f"[{options}]")}}
    t = project(
        {"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\ndata: {json.dumps(steps)}"}
    )
    process = t.start("build")
    until(lambda: (t.folder / "up").exists())
    process.kill()
    process.communicate()
    (scratch,) = (t.folder / ".finery/work").glob("*.scratch")
    assert is_in_use(scratch) or options == SILENT
    (t.folder / "again").touch()
    assert t.ran() == ["a"]
    assert t.rows("a")[0]["prompt"] == "True"
    assert list((t.folder / ".finery/work").iterdir()) == []


def test_scratch_that_a_killed_build_did_not_clear_is_removed(project: MakeProject) -> None:
    steps = {"a": {"use": "steps.script", "code": "(job.scratch / 'x').touch()"}}
    t = project(
        {"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\ndata: {json.dumps(steps)}"}
    )
    t.ran()
    (key,) = results(t)
    work = t.folder / ".finery/work"
    left, stale, fresh = (work / f"{k}.scratch" for k in (key, "a" * 64, "b" * 64))
    for folder in (left, stale, fresh):
        folder.mkdir()
        (folder / "checkpoint").touch()
        lock_path(folder).touch()
    month = time.time() - 31 * 86_400
    for path in (stale / "checkpoint", stale):
        os.utime(path, (month, month))
    t.edit("recipe.yaml", "touch()", "touch();")
    _, _, err = t.run("build")
    assert "removed the scratch of 1 unfinished step" in err
    assert sorted(work.iterdir()) == [fresh, lock_path(fresh)]


def test_a_killed_step_resumes_from_its_scratch(project: MakeProject) -> None:
    code = """
import time
done = len(list(job.scratch.iterdir()))
for n in range(done, 4):
    (job.scratch / str(n)).touch()
    if n == 1: Path('up').touch(); time.sleep(600)
rows.append({'prompt': f'resumed at {done}'})
"""
    steps = {"a": {"use": "steps.alone", "code": code}}
    t = project(
        {"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\ndata: {json.dumps(steps)}"}
    )
    process = t.start("build")
    until(lambda: (t.folder / "up").exists())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (lock,) = (t.folder / ".finery/work").glob("*.lock")
    long_ago = time.time() - 100  # as if the first attempt had begun then
    os.utime(lock, (long_ago, long_ago))
    events = [json.loads(line) for line in t.run("build", "--json").out.splitlines()]
    (finished,) = (event for event in events if event["event"] == "step_finished")
    assert 90 < finished["seconds"] < 160  # of both attempts
    assert t.rows("a")[0]["prompt"] == "resumed at 2"
    assert list((t.folder / ".finery/work").iterdir()) == []


def test_the_time_of_attempts_is_added_up_to_their_last_changes(tmp_path: Path) -> None:
    scratch = tmp_path / "key.scratch"
    assert earlier_seconds(scratch) == 0
    scratch.mkdir()
    lock_path(scratch).touch()
    total = 0
    for began, changed in ((1_000, 1_060), (5_000, 5_030), (9_000, 8_000)):
        (scratch / "checkpoint").touch()
        for path in (scratch / "checkpoint", scratch):
            os.utime(path, (changed, changed))
        os.utime(lock_path(scratch), (began, began))
        total += max(0, changed - began)
        assert earlier_seconds(scratch) == total
        assert time.time() - lock_path(scratch).stat().st_mtime < 60  # the next one begins


NOTE = "import time; open('ran', 'a').write(job.out.name + chr(10)); time.sleep(.02)\n"


def test_what_a_killed_step_left_is_swept_by_the_next_build(project: MakeProject) -> None:
    code = "(job.out / 'half').touch(); (job.scratch / 'kept').touch(); Path('up').touch()"
    wait = "__import__('time').sleep(600)"
    steps = {"a": {"use": "steps.script", "code": f"{code}; {wait}"}}
    t = project(
        {"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\ndata: {json.dumps(steps)}"}
    )
    process = t.start("build")
    until(lambda: (t.folder / "up").exists())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    t.edit("recipe.yaml", f"{code}; {wait}", "")  # another key: nobody comes back for this one
    assert t.ran() == ["a"]
    left = sorted(p.suffix for p in (t.folder / ".finery/work").iterdir())
    assert left == [".lock", ".scratch"]


@pytest.mark.parametrize(("count", "partly"), [(4, False), (2, True)])
def test_builds_at_once_run_each_step_once(project: MakeProject, count: int, partly: bool) -> None:
    steps = {
        f"s{n}": {"use": "steps.script" if n % 3 else "steps.alone",
                  **({"rows": f"s{n - 3}"} if n > 2 else {}),
                  "code": f"{NOTE}rows.append({{'prompt': '{n}'}})"}
        for n in range(8)
    }  # fmt: skip
    t = project(
        {"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\ndata: {json.dumps(steps)}"}
    )
    if partly:
        t.ran("--step", "s3", "--step", "s4")
    builds = [t.start("build") for _ in range(count)]
    for build in builds:
        _, err = build.communicate(timeout=120)
        assert build.returncode == 0, err
    keys = (t.folder / "ran").read_text().split()
    assert len(keys) == len(set(keys)) == len(steps)
    assert [t.rows(name)[0]["prompt"] for name in steps] == [str(n) for n in range(8)]
    assert t.ran() == []


def test_a_waiting_build_takes_over_when_the_other_one_dies(project: MakeProject) -> None:
    code = "import time; Path('up').touch()\nif not Path('go').exists(): time.sleep(600)\n"
    code += "rows.append({'prompt': 'x'})"
    steps = {"a": {"use": "steps.script", "code": code}}
    t = project(
        {"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\ndata: {json.dumps(steps)}"}
    )
    first = t.start("build")
    until(lambda: (t.folder / "up").exists())
    second = t.start("build", "--json")
    runs = t.folder / ".finery/runs"
    assert second.stdout is not None
    second.stdout.readline()  # it has begun
    (t.folder / "go").touch()
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    out, _ = second.communicate(timeout=120)
    assert second.returncode == 0
    assert [json.loads(line)["event"] for line in out.splitlines()][-1] == "build_finished"
    assert len(t.rows("a")) == 1
    assert runs.exists()


def test_builds_at_once_mend_a_damaged_store_together(project: MakeProject) -> None:
    t = project({"recipe.yaml": quick_recipe(), "rows.txt": "a\nb\n"})
    t.ran()
    before = results(t)
    for blob in (t.folder / ".finery/objects").glob("*/*"):
        blob.chmod(0o644)
        blob.write_bytes(b"damaged")
    builds = [t.start("build") for _ in range(3)]
    for build in builds:
        _, err = build.communicate(timeout=120)
        assert build.returncode == 0, err
    assert blobs_are_whole(t)
    assert results(t) == before


def test_a_build_says_which_other_build_it_waits_for(project: MakeProject) -> None:
    code = "Path('began').touch()\nwhile not Path('go').exists(): __import__('time').sleep(0.01)"
    steps = json.dumps({"a": {"use": "steps.script", "code": code}})
    t = project({"recipe.yaml": f"finery: 1\nname: t\nplugins: [./steps.py]\ndata: {steps}\n"})
    first = t.start("build")
    until((t.folder / "began").exists)
    second = t.start("build")
    assert second.stderr is not None
    line = second.stderr.readline()
    (t.folder / "go").touch()
    assert f"waiting for process {first.pid} (" in line
    assert line.endswith("which is building it\n")
    assert [len(process.communicate(timeout=60)) for process in (first, second)] == [2, 2]
    assert (first.returncode, second.returncode) == (0, 0)
