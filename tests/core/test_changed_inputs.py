"""Files that change under a step: its inputs, and its outputs after it returned."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from conftest import MakeProject, Project, until
from tasks import Tasks, ends

from finery.artifact.manifest import Manifest
from finery.errors import StepError
from finery.execute.executor import Task
from finery.execute.local import LocalExecutor
from finery.store.blobs import may_have_writer
from finery.store.database import Store
from finery.store.links import guard_inputs
from finery.util.files import hash_file

RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {{use: steps.source, path: rows.txt}}
  b: {{use: steps.script, rows: [a], code: {code}}}
"""
FILE = "path = next(Path(step.rows[0].path).glob('rows-*.jsonl'))"
BLOB = f"{FILE}.resolve()\nos.chmod(path, 0o644)"
IN_PLACE = {
    "written": f"{BLOB}\npath.write_text(path.read_text().replace('one', 'ONE'))",
    "appended": f"{BLOB}\nopen(path, 'a').write('x')",
    "through the link": f"{FILE}\nos.chmod(path, 0o644)\nopen(path, 'a').write('x')",
    "mapped": f"{BLOB}\nimport mmap\nfile = open(path, 'r+b')\n"
    "mapped = mmap.mmap(file.fileno(), 0)\nfile.close()\nmapped[-3:-2] = b'x'\nmapped.close()",
    "removed": f"{FILE}.resolve()\nos.unlink(path)",
    "times kept": f"{BLOB}\nold = path.stat()\npath.write_text(path.read_text().swapcase())\n"
    "os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))",
}


def recipe(code: str) -> str:
    return RECIPE.format(code=json.dumps(code))


def failed(t: Project, *args: str) -> dict[str, str]:
    """The failures of a build: step → what went wrong."""
    events = [e for e in t.events(*args) if e["event"] == "step_failed"]
    return {e["step"]: e["error"]["what"] for e in events}


@pytest.mark.parametrize("code", IN_PLACE.values(), ids=IN_PLACE)
@pytest.mark.parametrize("is_built", [True, False])
def test_a_step_that_changes_its_input_fails(
    project: MakeProject, code: str, *, is_built: bool
) -> None:
    t = project({"recipe.yaml": recipe(code), "rows.txt": "one\ntwo\n"})
    if is_built:
        assert t.ran("a") == ["a"]
    assert failed(t) == {"b": "its input 'a' was changed while it ran: rows-00000.jsonl"}
    t.write({"recipe.yaml": recipe("rows.append({'prompt': 'fine'})")})
    assert t.ran() == ["a", "b"]  # the input is made anew
    assert [row["prompt"] for row in t.rows("a")] == ["one", "two"]
    assert t.run("cache", "verify").code == 0


def test_a_step_that_replaces_the_link_to_its_input_fails(project: MakeProject) -> None:
    code = f"{FILE}\nPath('new').write_text('{{}}')\nos.replace('new', path)"
    t = project({"recipe.yaml": recipe(code), "rows.txt": "one\n"})
    assert failed(t) == {"b": "its input 'a' was changed while it ran: rows-00000.jsonl"}
    t.write({"recipe.yaml": recipe("rows.append({'prompt': 'fine'})")})
    assert t.ran() == ["b"]  # only the link was changed
    assert [row["prompt"] for row in t.rows("a")] == ["one"]


def test_an_input_that_is_restored_may_have_been_read_meanwhile(project: MakeProject) -> None:
    code = f"{BLOB}\nold = path.read_text()\npath.write_text('x')\nos.truncate(path, 0)\n"
    t = project({"recipe.yaml": recipe(f"{code}path.write_text(old)"), "rows.txt": "one\n"})
    assert "b" in failed(t)


def test_a_blob_that_was_edited_and_restored_with_its_times_is_noticed(
    project: MakeProject,
) -> None:
    store, made, blob = built_input(project)

    def edit_and_restore() -> None:
        before, text = blob.stat(), blob.read_text()
        blob.chmod(0o644)
        blob.write_text("x")
        blob.write_text(text)
        blob.chmod(0o444)
        os.utime(blob, ns=(before.st_atime_ns, before.st_mtime_ns))

    with (
        pytest.raises(StepError, match="its input 'a' was changed"),
        guard_inputs(store.root, made),
    ):
        edit_and_restore()


def test_what_finery_does_to_a_blob_is_no_change_of_it(project: MakeProject) -> None:
    store, made, blob = built_input(project)
    with guard_inputs(store.root, made):  # a build takes over a result with the same file
        store.adopt([], {}, [(blob.parent.name + blob.name, 1, "", 0, "file:///x")], "run")
    with guard_inputs(store.root, made):  # a bundle has the same file, executable
        blob.chmod(0o555)
    with guard_inputs(store.root, made):
        os.link(blob, store.root / "other")


def built_input(project: MakeProject) -> tuple[Store, list[tuple[str, Manifest]], Path]:
    """A store, an artifact in it as input 'a', and the artifact's file."""
    t = project({"recipe.yaml": recipe(""), "rows.txt": "one\n"})
    assert t.ran("a") == ["a"]
    folder = t.folder / "build/t/a"
    made = msgspec.json.decode((folder / "manifest.json").read_bytes(), type=Manifest)
    (blob,) = {path.resolve() for path in folder.glob("rows-*")}
    return Store(t.folder / ".finery"), [("a", made)], blob


def test_an_input_may_be_made_again_meanwhile(project: MakeProject) -> None:
    code = f"{BLOB}\nimport shutil\nshutil.copy(path, 'new')\nos.replace('new', path)"
    t = project({"recipe.yaml": recipe(code), "rows.txt": "one\n"})
    assert t.ran() == ["a", "b"]


def test_two_steps_may_make_an_input_again_meanwhile(project: MakeProject) -> None:
    """The file system may give the second file the inode of the one that the first replaced."""
    store, made, blob = built_input(project)

    def make_again() -> None:
        shutil.copy(blob, store.root / "new")
        os.replace(store.root / "new", blob)

    make_again()
    with guard_inputs(store.root, made):
        make_again()
        make_again()


@pytest.mark.parametrize(
    ("error", "what"),
    [("ValueError('no rows')", "step type 'steps.script' failed: ValueError: no rows"),
     ("__import__('finery').StepError('no rows')", "no rows")],
)  # fmt: skip
def test_a_step_that_fails_after_it_changed_its_input(
    project: MakeProject, error: str, what: str
) -> None:
    code = f"{IN_PLACE['appended']}\nraise {error}"
    t = project({"recipe.yaml": recipe(code), "rows.txt": "one\n"})
    (event,) = [e for e in t.events() if e["event"] == "step_failed"]
    assert event["error"]["what"] == what
    *_, remark = event["error"]["details"]
    assert remark == "its input 'a' was changed while it ran: rows-00000.jsonl"
    t.write({"recipe.yaml": recipe(f"raise {error}")})
    (event,) = [e for e in t.events() if e["event"] == "step_failed"]
    assert "was changed" not in str(event["error"]["details"])


LINKS = {
    "in its output": "os.link(path, job.out / 'x')",
    "in its scratch": "os.link(path, job.scratch / 'x')",
    "elsewhere": "os.link(path, 'other')",
    "for a moment": "os.link(path, 'other')\nos.unlink('other')",
}


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_another_step_makes_a_hard_link_to_an_input(project: MakeProject, link: str) -> None:
    """That changes nothing. But a link for a moment can't be told from text that was restored."""
    wait = "import time\nwhile not os.path.exists({0!r}): time.sleep(0.01)\n"
    reads = f"Path('began').touch()\n{wait.format('linked')}rows.extend(step.rows[0])"
    other = f"{wait.format('began')}{FILE}.resolve()\n{link}\nPath('linked').touch()"
    text = f"{recipe(reads)}  c: {{use: steps.script, rows: [a], code: {json.dumps(other)}}}\n"
    t = project({"recipe.yaml": text, "rows.txt": "one\n"})
    events = [e for e in t.events("--keep-going") if e["event"] == "step_failed"]
    if "unlink" not in link:
        assert not events
    else:
        assert [e["step"] for e in events] in (["b", "c"], ["c", "b"])
        assert {e["error"]["what"] for e in events} == {
            "its input 'a' was changed while it ran: rows-00000.jsonl"
        }
        assert "makes a hard link to it and removes that" in events[0]["error"]["fix"]


def test_someone_else_changes_an_input(project: MakeProject) -> None:
    wait = "import time\nPath('began').touch()\nwhile not os.path.exists('go'): time.sleep(0.01)"
    t = project({"recipe.yaml": recipe(wait), "rows.txt": "one\n"})
    building = t.start("build", "--json")
    until(lambda: (t.folder / "began").exists())
    (blob,) = {p.resolve() for p in (t.folder / "build/t/a").glob("rows-*")}
    blob.chmod(0o644)
    blob.write_text('{"prompt": "two"}\n')
    (t.folder / "go").touch()
    out, _ = building.communicate(timeout=120)
    assert "its input 'a' was changed while it ran" in out


def test_an_outside_file_of_an_input_is_changed(project: MakeProject) -> None:
    text = """\
finery: 1
name: t
plugins: [./steps.py]
models:
  m: {use: steps.outside, path: weights}
  n: {use: steps.adapter, model: m}
"""
    t = project({"recipe.yaml": text, "weights": "abc"})
    t.edit("steps.py", '(job.out / "adapter")', 'self.model.file("weights").write_text("xyz")\n'
           '        (job.out / "adapter")')  # fmt: skip
    assert failed(t) == {"n": "its input 'm' was changed while it ran: weights"}


# -- outputs ---------------------------------------------------------------------------------------

SLEEP = "import threading, time\nkept = open(job.out / 'x', 'w')\nkept.write('early')\nkept.flush()"
WRITERS = {
    "thread": f"{SLEEP}\ndef late():\n time.sleep(0.5)\n kept.write('late')\n kept.flush()\n"
    "threading.Thread(target=late).start()",
    "child": "import subprocess\nsubprocess.run(['sh', '-c', "
    "'(printf early; sleep 0.5; printf late) > x & sleep 0.2'], cwd=job.out)",
    "left group": "import subprocess\nsubprocess.run(['setsid', 'sh', '-c', "
    "'(printf early; sleep 0.5; printf late) > x & sleep 0.2'], cwd=job.out)",
    "mapping": "import mmap, threading, time\n(job.out / 'x').write_text('early')\n"
    "file = open(job.out / 'x', 'r+b')\nmapped = mmap.mmap(file.fileno(), 0)\nfile.close()\n"
    "def late():\n time.sleep(0.5)\n mapped[:4] = b'late'\nthreading.Thread(target=late).start()",
    "hard link": "import threading, time\n(job.out / 'x').write_text('early')\n"
    "os.link(job.out / 'x', '{0}')\ndef late():\n time.sleep(0.5)\n"
    " os.chmod('{0}', 0o644)\n open('{0}', 'a').write('late')\n"
    "threading.Thread(target=late).start()",
}


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    """An executor for one step after the other."""
    made = LocalExecutor(1)
    yield made
    made.close()


def packing(task: Tasks, code: str) -> Task:
    """The task of a step that packs what some Python writes."""
    made = task(code)
    made.use, made.settings = "steps.pack", {"code": code}
    return made


@pytest.mark.parametrize("code", WRITERS.values(), ids=WRITERS)
def test_nothing_writes_to_an_output_that_is_recorded(
    executor: LocalExecutor, tmp_path: Path, code: str
) -> None:
    task = Tasks(tmp_path)
    executor.start(packing(task, code.replace("{0}", str(tmp_path / "other"))))
    (event,) = ends(executor, 1).values()
    digest, size = event["outputs"][""]["files"]["x"]
    blob = task.store.blob(digest)
    assert (blob.read_text(), size) == ("early", 5)
    # a step after it, in the same process, gives the writer its time
    executor.start(task("import time; time.sleep(1)"))
    ends(executor, 1)
    assert hash_file(blob) == digest
    assert blob.stat().st_nlink == 1
    task.store.close()


def test_an_output_that_is_still_written_fails(executor: LocalExecutor, tmp_path: Path) -> None:
    writer = "f = open('x', 'wb', 0); f.write(bytes(1 << 26)); n = 0\n"
    writer += "while n := n + 1: f.seek(0); f.write(b'%20d' % n)"
    code = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {writer!r}], "
    code += "cwd=job.out)\nx = job.out / 'x'\n"
    code += "while not (x.exists() and x.stat().st_size == 1 << 26): pass"
    task = Tasks(tmp_path)
    executor.start(packing(task, code))
    (event,) = ends(executor, 1).values()
    assert event["error"]["what"] == "something still writes to x, a file of the step's output"
    task.store.close()


def test_only_files_that_are_open_are_copied(executor: LocalExecutor, tmp_path: Path) -> None:
    other = tmp_path / "inode"
    code = "(job.out / 'x').write_text('early')\n"
    code += f"Path({str(other)!r}).write_text(str(os.stat(job.out / 'x').st_ino))"
    task = Tasks(tmp_path)
    executor.start(packing(task, code))
    (event,) = ends(executor, 1).values()
    blob = task.store.blob(event["outputs"][""]["files"]["x"][0])
    assert blob.stat().st_ino == int(other.read_text())
    task.store.close()


OPENED: dict[str, Callable[[Path], object]] = {
    "for writing": lambda path: path.open("ab"),
    "as a log": lambda path: __import__("logging").FileHandler(path),
    "by SQLite": lambda path: _inserted(path),
    "by NumPy": lambda path: __import__("numpy").memmap(path, mode="r+"),
}


def _inserted(path: Path) -> object:
    import sqlite3

    path.write_bytes(b"")
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (x)")
    return database


@pytest.mark.parametrize("opened", OPENED.values(), ids=OPENED)
def test_who_can_write_to_a_file(tmp_path: Path, opened: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    with path.open("rb"):
        assert not may_have_writer(path)
    holder = opened(path)
    assert may_have_writer(path)
    del holder
