"""Writers that go on after their step, and files that change while a step reads them."""

import json
import time
from pathlib import Path

import pytest
from attacking import Attack, World, attacks, both, edit, link, more, put, remove, step
from blake3 import blake3

RECIPE = """\
finery: 1
name: t
plugins: [late.py]
export: {late: {use: l.late}}
data: {reads: {use: l.reads, bundle: late}}
"""
LATE = '''\
import mmap
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from blake3 import blake3
from finery import Bundle, Dataset, Job, Step, hookimpl

HERE = Path(__file__).parent
SIZE = 100_000
WAIT = 0.3
KEPT = []


def write(file):
    """Write over the middle of an open file, again and again."""
    for _ in range(4):
        time.sleep(WAIT)
        file.seek(SIZE // 2)
        file.write(b"late" * 100)
        file.flush()


class Late(Step, seeded=False):
    """A file, and somebody who writes to it later."""

    def run(self, job: Job) -> Bundle:
        """Write the file."""
        path = job.out / "f"
        path.write_bytes(b"x" * SIZE)
        if not (HERE.parent / "off").exists():
            HOW
        return Bundle(job.out)


class Reads(Step, seeded=False):
    """The digest of the file."""

    bundle: Bundle

    def run(self, job: Job) -> Dataset:
        """Read it."""
        time.sleep(WAIT)
        data = (self.bundle.path / "f").read_bytes()
        return Dataset.write(job.out, [{"prompt": blake3(data).hexdigest()}])


@hookimpl
def finery_steps():
    """The step types."""
    return {"l.late": Late, "l.reads": Reads}
'''
CHILD = """
import time
f = open(0, 'r+b', buffering=0, closefd=False)
for _ in range(4):
    time.sleep(0.3)
    f.seek(50000)
    f.write(b'late')
"""
START = "threading.Thread(target=write, args=[f]).start()"
WRITERS = {
    "a thread with an open file": f"f = path.open('r+b'); {START}",
    "a daemon thread": f"f = path.open('r+b'); {START.replace(')', ', daemon=True)', 1)}",
    "a thread with a descriptor for appending": f"f = path.open('ab'); {START}",
    "a child with an open file":
        f"subprocess.Popen([sys.executable, '-c', {CHILD!r}], stdin=path.open('r+b'))",
    "a child in a session of its own": f"subprocess.Popen([sys.executable, '-c', {CHILD!r}], "
        "stdin=path.open('r+b'), start_new_session=True)",
    "a grandchild that nobody waits for": "f = path.open('r+b')\n"
        "if not os.fork():\n    os.setsid()\n    if not os.fork():\n        write(f)\n"
        "    os._exit(0)\nos.wait()\nf.close()",
    "a mapping that a thread writes to": "f = path.open('r+b')\nm = mmap.mmap(f.fileno(), 0)\n"
        "f.close()\nKEPT.append(m)\nthreading.Thread(target=write, args=[m]).start()",
    "a mapping that a child writes to": "f = path.open('r+b')\nm = mmap.mmap(f.fileno(), 0)\n"
        "f.close()\nif not os.fork():\n    write(m)\n    os._exit(0)",
    "a mapping that a grandchild writes to": "f = path.open('r+b')\nm = mmap.mmap(f.fileno(), 0)\n"
        "f.close()\nif not os.fork():\n    os.setsid()\n    if not os.fork():\n        write(m)\n"
        "    os._exit(0)\nos.wait()\nm.close()",
    "a handle that is closed late": "f = path.open('r+b', buffering=1 << 20)\nf.seek(9)\n"
        "f.write(b'late')\nKEPT.append(f)",
    "a hard link in the project": "os.link(path, HERE / 'kept')\n"
        "f = (HERE / 'kept').open('r+b')\nthreading.Thread(target=write, args=[f]).start()",
    "a hard link that is opened later": "os.link(path, HERE / 'kept')\ndef later():\n"
        "    time.sleep(WAIT)\n    os.chmod(HERE / 'kept', 0o644)\n"
        "    write((HERE / 'kept').open('r+b'))\nthreading.Thread(target=later).start()",
    "a hard link to a file of the project": "(HERE / 'kept').write_bytes(b'y' * SIZE)\n"
        "path.unlink()\nos.link(HERE / 'kept', path)\ndef later():\n    time.sleep(WAIT)\n"
        "    os.chmod(HERE / 'kept', 0o644)\n    write((HERE / 'kept').open('r+b'))\n"
        "threading.Thread(target=later).start()",
    "a thread that opens the file again": "def later():\n    time.sleep(WAIT / 3)\n"
        "    try:\n        write(path.open('r+b'))\n    except OSError: ...\n"
        "threading.Thread(target=later).start()",
    "a thread that truncates": "f = path.open('r+b')\ndef later():\n    time.sleep(WAIT)\n"
        "    f.truncate(7)\nthreading.Thread(target=later).start()",
    "a write at exit": "import atexit\natexit.register(write, path.open('r+b'))",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", [
    pytest.param(n, id=n.replace(" ", "-"), marks=[pytest.mark.quick] * ("child with" in n))
    for n in WRITERS
])  # fmt: skip
def test_nothing_wrong_is_recorded_of_a_late_writer(tmp_path: Path, how: str) -> None:
    world = late(tmp_path, WRITERS[how])
    built = world.build()
    time.sleep(2)
    assert built.code in (0, 1), built
    check(world, how)
    (world.folder / "off").touch()
    again = world.build()
    assert again.code == 0, again
    check(world, how)
    answer = rows(world)
    (world.folder / "p/.finery").rename(tmp_path / "old-store")
    clean = world.build()
    assert clean.code == 0, clean
    if built.code != 0:  # then nothing was recorded, and the next build is what a clean one is
        assert rows(world) == answer


def late(tmp_path: Path, how: str) -> World:
    """A world with a writer."""
    world = World(tmp_path / "w")
    indented = how.replace("\n", "\n" + " " * 12)
    world.set_up({"recipe.yaml": RECIPE, "late.py": LATE.replace("HOW", indented)})
    return world


def rows(world: World) -> list[str]:
    """What the step downstream wrote."""
    (file,) = (world.folder / "p/build/t/reads").glob("rows-*")
    return [json.loads(line)["prompt"] for line in file.read_text().splitlines()]


def check(world: World, how: str) -> None:
    """What is recorded has the bytes that it was recorded with, and so has what was read of it."""
    folder = world.folder / "p/build/t"
    digest = None
    if (folder / "late/manifest.json").exists():
        digest = json.loads((folder / "late/manifest.json").read_text())["files"]["f"][0]
        assert blake3((folder / "late/f").read_bytes()).hexdigest() == digest, how
    if (folder / "reads/manifest.json").exists():
        assert rows(world) == [digest], how
    verified = world.command("cache", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


INPUT = '''\
import os
import subprocess
import sys
from pathlib import Path

from finery import Dataset, Files, Job, Step, hookimpl, setting

HERE = Path(__file__).parent


class Source(Step, seeded=False):
    """Rows."""

    def run(self, job: Job) -> Dataset:
        """Write them."""
        return Dataset.write(job.out, [{"prompt": f"row {i}"} for i in range(50)])


class Edits(Step, seeded=False):
    """Rows, while its input is edited."""

    rows: Dataset
    path: Files | None = setting(None, help="A declared file.")

    def run(self, job: Job) -> Dataset:
        """Read, and edit."""
        link = next(self.rows.path.glob("rows-*"))
        file = Path(os.path.realpath(link))
        on = not (HERE.parent / "off").exists()
        state = file.stat()
        text = file.read_text()
        BEFORE
        made = [r["prompt"] for r in self.rows]
        AFTER
        return Dataset.write(job.out, [{"prompt": p} for p in made])


class Reads(Step, seeded=False):
    """The same rows."""

    rows: Dataset
    others: Dataset

    def run(self, job: Job) -> Dataset:
        """Copy."""
        return Dataset.write(job.out, [{"prompt": r["prompt"], "n": 1} for r in self.rows])


@hookimpl
def finery_steps():
    """The step types."""
    return {"i.source": Source, "i.edits": Edits, "i.reads": Reads}
'''
OPEN = "os.chmod(file, 0o644)"
EDITORS = {
    "appended before": (f"if on: {OPEN}; file.write_text(text + text.splitlines()[0])", ""),
    "overwritten before": (f"if on: {OPEN}; file.write_text(text.replace('row 7', 'row X'))", ""),
    "overwritten after": ("", f"if on: {OPEN}; file.write_text(text.replace('row 7', 'row X'))"),
    "overwritten with its times": ("if on:\n    " + OPEN + "\n    file.write_text(text.replace("
        "'row 7', 'row X'))\n    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))", ""),
    "overwritten and restored": (f"if on: {OPEN}; file.write_text(text.replace('row 7', 'row X'))",
        "if on:\n    file.write_text(text)\n    os.chmod(file, 0o444)\n"
        "    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))"),
    "replaced": ("if on:\n    new = file.with_name('new')\n    new.write_text(text.replace("
        "'row 7', 'row X'))\n    os.replace(new, file)", ""),
    "by the view's link": ("if on:\n    link.chmod(0o644)\n    with link.open('r+') as f: "
        "f.write(text.replace('row 7', 'row X'))", ""),
    "through a mapping": ("if on:\n    " + OPEN + "\n    import mmap\n"
        "    with file.open('r+b') as f:\n"
        "        m = mmap.mmap(f.fileno(), 0); m[30:31] = b'X'; m.flush(); m.close()", ""),
    "by a child": (f"if on: {OPEN}; subprocess.run([sys.executable, '-c', 'import sys; p = "
        "sys.argv[1]; t = open(p).read(); open(p, \"w\").write(t.replace(\"row 7\", \"row X\"))', "
        "file])", ""),
    "removed": ("made = list(self.rows)", "if on: file.unlink()"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", [
    pytest.param(n, id=n.replace(" ", "-"), marks=[
        *[pytest.mark.quick] * (n[-5:] == "times"),
    ])
    for n in EDITORS
])  # fmt: skip
def test_nothing_wrong_is_recorded_of_an_edited_input(tmp_path: Path, how: str) -> None:
    world = World(tmp_path / "w")
    before, after = (text.replace("\n", "\n" + " " * 8) for text in EDITORS[how])
    world.set_up({
        "steps.py": INPUT.replace("BEFORE", before).replace("AFTER", after),
        **more("rows: {use: i.source}", "edits: {use: i.edits, rows: rows}",
               "reads: {use: i.reads, rows: rows, others: edits}"),
    })  # fmt: skip
    built = world.build()
    assert built.code in (0, 1), built
    assert "Traceback" not in built.text or built.code == 1, built
    (world.folder / "off").touch()
    again = world.build()
    assert again.code == 0, again
    outputs = again.outputs
    (world.folder / "p/.finery").rename(tmp_path / "old-store")
    (world.folder / "p/build").rename(tmp_path / "old-build")
    assert world.build().outputs == outputs


FLAG = "(HERE.parent / 'flag').exists()"
CASES = [
    Attack("a text edited after it was read", step(
           "answer = (HERE / 'words.txt').read_text()\n"
           f"if {FLAG}: (HERE / 'words.txt').write_text('new words')") | {"words.txt": "old words",
           "../flag": ""}, remove("../flag")),
    Attack("a text edited by a child after it was read", step(
           "import subprocess\nanswer = (HERE / 'words.txt').read_text()\n"
           f"if {FLAG}: subprocess.run(['sh', '-c', 'echo new > words.txt'], cwd=HERE)")
           | {"words.txt": "old", "../flag": ""}, remove("../flag")),
    Attack("a text edited with its times after it was read", step(
           "p = HERE / 'words.txt'\nanswer = p.read_text()\ns = p.stat()\n"
           f"if {FLAG}:\n    p.write_text('new')\n"
           "    os.utime(p, ns=(s.st_atime_ns, s.st_mtime_ns))")
           | {"words.txt": "old", "../flag": ""}, remove("../flag"), quick=True),
    Attack("a text replaced after it was read", step(
           "import subprocess\np = HERE / 'words.txt'\nanswer = p.read_text()\n"
           f"if {FLAG}: subprocess.run(['sh', '-c', 'echo new > n; mv n words.txt'], cwd=HERE)")
           | {"words.txt": "old", "../flag": ""}, remove("../flag")),
    Attack("a text that a child makes, edited after it was read", step(
           "import subprocess\np = HERE / 'made.txt'\n"
           "if not p.exists(): subprocess.run(['cp', 'words.txt', 'made.txt'])\n"
           f"answer = p.read_text()\nif {FLAG}: os.system('echo new >>made.txt')")
           | {"words.txt": "old", "../flag": ""}, remove("../flag")),
    Attack("a text edited between opening and reading, then restored", step(
           "import subprocess\np = HERE / 'words.txt'\nf = p.open()\n"
           f"if {FLAG}: subprocess.run(['sh', '-c', 'echo new > words.txt'], cwd=HERE)\n"
           "answer = f.read()\n"
           f"if {FLAG}: subprocess.run(['sh', '-c', 'echo old > words.txt'], cwd=HERE)\n")
           | {"words.txt": "old\n", "../flag": ""}, remove("../flag")),
    Attack("a text that another step edits before", step(
           f"if self.tag == 0 and {FLAG}: (HERE / 'words.txt').write_text('new')\n"
           "answer = (HERE / 'words.txt').read_text() if self.tag else 0")
           | {"words.txt": "old", "../flag": ""}
           | more("a: {use: a.answer}", "b: {use: a.answer, tag: 1}"),
           both(remove("../flag"), put("words.txt", "old")), same=True),
    Attack("a helper that another step edits before it is imported", {
           **step("import importlib\nif self.tag == 0:\n"
           f"    if {FLAG}: (HERE / 'helper.py').write_text('X = 2')\n    answer = 0\nelse:\n"
           "    import helper\n    answer = helper.X"),
           "helper.py": "X = 1", "../flag": "",
           **more("a: {use: a.answer}", "b: {use: a.answer, tag: 1}")},
           both(remove("../flag"), put("helper.py", "X = 1")), same=True, fails=True),
    Attack("a helper that run edits before it imports it", {
           **step(f"if {FLAG}: (HERE / 'helper.py').write_text('X = 2')\n"
           "import helper\nanswer = helper.X"), "helper.py": "X = 1", "../flag": ""},
           both(remove("../flag"), put("helper.py", "X = 1")), fails=True, same=True, quick=True),
    Attack("a cache that the step keeps in the project", step(
           "p = HERE / 'cache.txt'\ntry:\n    answer = p.read_text()\nexcept OSError:\n"
           "    answer = (HERE / 'words.txt').read_text()\n    p.write_text(answer)")
           | {"words.txt": "old"}, both(remove("cache.txt"), put("words.txt", "new"))),
    Attack("a cache that the step keeps in the project, edited", step(
           "p = HERE / 'cache.txt'\nif not p.exists(): p.write_text('made')\n"
           "answer = p.read_text()"), put("cache.txt", "mine")),
    Attack("a folder that the step makes if there is none, and lists", step(
           "p = HERE / 'd'\nif not p.exists():\n    p.mkdir()\n    (p / 'a').touch()\n"
           "answer = sorted(os.listdir(p))"), put("d/b", "")),
    Attack("an optional file in a folder that the step makes", step(
           "os.makedirs('d', exist_ok=True)\ntry:\n    answer = open('d/a').read()\n"
           "except OSError:\n    answer = 0"), put("d/a", "2")),
    Attack("a file that appears where the step made a folder and searched it", step(
           "from glob import glob\nos.makedirs('d/e', exist_ok=True)\n"
           "answer = glob('d/*/*.txt')"), put("d/e/a.txt", "")),
    Attack("a file beside a folder that the step makes and searches", step(
           "from glob import glob\nos.makedirs('d/e', exist_ok=True)\n"
           "try: answer = open('d/a').read()\nexcept OSError: answer = glob('d/*/*.txt')"),
           put("a", ""), precise=True),
    Attack("a file in a folder that the step makes if there is none", step(
           "p = HERE / 'd'\nif not p.exists():\n    p.mkdir()\n    (p / 'a').write_text('1')\n"
           "answer = (p / 'a').read_text()"), put("d/a", "2")),
    Attack("a file that a child makes in a folder of the step's", step(
           "import subprocess\np = HERE / 'd'\nif not p.exists():\n    p.mkdir()\n"
           "    subprocess.run('echo 1 > d/a', shell=True)\n"
           "answer = (p / 'a').read_text()"), put("d/a", "2")),
    Attack("a text that the step moves before it reads it", step(
           "try:\n    os.replace('in', 'w')\nexcept OSError: ...\n"
           "answer = (HERE / 'w').read_text()") | {"in": "1"}, put("in", "2")),
    Attack("a folder that the step moves before it reads in it", step(
           "import shutil\ntry:\n    os.rename('in', 'w')\nexcept OSError:\n"
           "    shutil.rmtree('w'); os.rename('in', 'w')\n"
           "answer = (HERE / 'w/a').read_text()") | {"in/a": "1"}, put("in/a", "2")),
    Attack("a counter that the step keeps", step(
           "p = HERE / 'n'\nn = int(p.read_text())\np.write_text(str(n + 1))\nanswer = n")
           | {"n": "1"}, put("n", "7")),
    Attack("a file listed, made and removed", step(
           "answer = sorted(os.listdir('d'))\nPath('d/x').touch()\nPath('d/x').unlink()")
           | {"d/a": ""}, put("d/b", "")),
    Attack("an output hard-linked to a file of the project, which is edited", {
           "late.py": LATE.replace("HOW", "path.unlink(); os.link(HERE / 'big', path)"),
           "recipe.yaml": RECIPE, "big": "y" * 100}, lambda w: w.path("big").write_text("z" * 100),
           same=True),
    Attack("an edit between two builds of a linked module", {**step("answer = helper.X",
           "import helper"), "v1.py": "X = 1\n"}, edit("1", "2", "v1.py"),
           prepare=link("helper.py", "v1.py")),
]  # fmt: skip


@attacks(CASES)
def test_a_file_that_changes_during_a_build(attack: Attack, tmp_path: Path) -> None:
    attack.run(tmp_path)
