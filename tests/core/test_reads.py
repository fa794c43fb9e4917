"""What a step reads besides its inputs is part of its result."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project
from hypothesis import given
from hypothesis import strategies as st

from finery.artifact.manifest import READ, Parts, Result, key_of, result_key
from finery.builder.project import open_store
from finery.builder.reads import current_values, fetch_read_lists, find_result, push_list
from finery.execute.entries import Places
from finery.store.database import Store
from finery.store.objects import open_objects
from finery.store.remote import Remote, expire

STEPS = '''
import os
import sys
from functools import lru_cache
from pathlib import Path

from finery import Dataset, Files, Job, Step, hookimpl, setting

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "lib"))
{top}


class Reads(Step, seeded=False):
    """Rows from what some Python reads."""

    rows: list[Dataset] = []
    path: Files | None = setting(None, help="Declared files.")
    tag: int = setting(0, help="Makes a step its own.")

    def run(self, job: Job) -> Dataset:
        text = "nothing"
        {body}
        return Dataset.write(job.out, [{{"prompt": str(text), "tag": self.tag}}])


@hookimpl
def finery_steps():
    return {{"reads.it": Reads}}
'''


def files(body: str, top: str = "", **steps: dict[str, Any]) -> dict[str, str]:
    """A project whose step type runs `body`, which sets `text`."""
    data = {name: {"use": "reads.it", **step} for name, step in (steps or {"a": {}}).items()}
    lines = body.strip().replace("\n", "\n        ")
    return {
        "recipe.yaml": f"finery: 1\nname: t\nplugins: [reads.py]\ndata: {json.dumps(data)}\n",
        "reads.py": STEPS.format(body=lines, top=top),
        "words.txt": "words",
        "data/one.json": "1",
        "lib/hidden.py": "X = 'first'\n",
    }


def text(t: Project, step: str = "a") -> Any:
    """What a step made."""
    return t.rows(step)[0]["prompt"]


def notes(t: Project, *args: str) -> list[str]:
    """The texts of the notes in a build."""
    named = [event for event in t.events(*args) if event["event"] == "step_note"]
    assert {event["name"] for event in named} <= {"not-reusable"}
    return [event["text"] for event in named]


READS = "text = (HERE / 'words.txt').read_text()"
COMPUTED = "__import__('importlib').import_module('hid' + 'den')"
CACHED = """
@lru_cache
def load():
    return (HERE / 'words.txt').read_text()
"""


@pytest.mark.parametrize(
    ("body", "top"),
    [
        (READS, ""),
        ("text = open(b'lib/../words.txt').read()", ""),
        ("text = os.read(os.open(str(HERE / 'words.txt'), os.O_RDONLY), 99)", ""),
        ("import pkgutil, hidden\ntext = hidden.__loader__.get_data(str(HERE / 'words.txt'))", ""),
        (
            f"import threading as t\ntext = []\ndef f(out=text): {READS}; out.append(text)\n"
            "f = t.Thread(target=f); f.start(); f.join()",
            "",
        ),
        (
            "import multiprocessing as m\nwith m.get_context('fork').Pool(1) as pool:\n"
            "    text = pool.map(Path.read_text, [HERE / 'words.txt'])",
            "",
        ),
        ("text = load()", CACHED),
        ("text = HEAD", "HEAD = (HERE / 'words.txt').read_text()"),
        ("import subprocess as s\ntext = s.check_output(['cat', 'words.txt'])", ""),
        (
            "w = job.scratch / 'w'; os.link('words.txt', w); text = w.read_text()",
            "",
        ),
        ("text = load()", f"{CACHED}\nload()"),
    ],
)
def test_a_step_reruns_when_what_it_read_changes(project: MakeProject, body: str, top: str) -> None:
    t = project(files(body, top, a={}, b={"tag": 1}))
    assert t.ran() == ["a", "b"]
    t.write({"words.txt": "other"})
    assert t.ran() == ["a", "b"]
    assert "other" in text(t)
    assert "other" in text(t, "b")
    assert t.ran() == []


def test_the_plan_names_what_changed_and_an_earlier_state_is_served_again(
    project: MakeProject,
) -> None:
    t = project(files(READS))
    assert t.ran() == ["a"]
    t.write({"words.txt": "other"})
    assert "read words.txt changed" in t.here("plan").out
    assert "  read words.txt  " in t.here("explain", "a").out
    assert t.ran() == ["a"]
    t.write({"words.txt": "words"})
    assert t.ran() == []
    assert text(t) == "words"
    (t.folder / "words.txt").unlink()
    assert "→ absent" in t.here("plan").out


def test_a_missing_file_counts(project: MakeProject) -> None:
    body = "try: text = (HERE / '.env').read_text()\nexcept OSError: pass"
    t = project(files(body))
    assert t.ran() == ["a"]
    assert t.ran() == []
    t.write({".env": "there"})
    assert "read .env: absent → " in t.here("plan").out
    assert t.ran() == ["a"]
    assert text(t) == "there"
    (t.folder / ".env").unlink()
    assert t.ran() == []
    assert text(t) == "nothing"


@pytest.mark.parametrize(
    "body",
    [
        "text = sorted(p.name for p in (HERE / 'data').glob('*.json'))",
        "text = sorted(os.listdir(HERE / 'data'))",
        "text = [files for *_, files in os.walk(HERE / 'data')]",
        "text = [sorted(files) for *_, files, _ in os.fwalk(HERE / 'data')]",
        "os.chdir(HERE / 'data')\ntext = sorted(os.listdir())\nos.chdir(HERE)",
    ],
)
def test_a_folder_counts_by_its_names(project: MakeProject, body: str) -> None:
    t = project(files(body))
    assert t.ran() == ["a"]
    assert t.ran() == []
    t.write({"data/one.json": "2"})
    assert t.ran() == []
    t.write({"data/two.json": "2"})
    assert t.ran() == ["a"]
    assert "two.json" in text(t)


def test_files_of_finery_in_a_folder_dont_count(project: MakeProject) -> None:
    t = project(files("text = sorted(p.name for p in HERE.iterdir())"))
    assert t.ran() == ["a"]
    assert t.ran() == []


@pytest.mark.parametrize(
    ("body", "top"), [(f"text = {COMPUTED}.X", ""), ("text = hidden.X", f"hidden = {COMPUTED}")]
)
def test_a_module_whose_name_is_computed_counts(project: MakeProject, body: str, top: str) -> None:
    t = project(files(body, top, a={}, b={"tag": 1}))
    assert t.ran() == ["a", "b"]
    assert t.ran() == []
    t.write({"lib/hidden.py": "X = 'second'\n"})
    assert t.ran() == ["a", "b"]
    assert text(t, "b") == "second"
    assert t.ran() == []
    t.write({"lib/hidden/__init__.py": "X = 'third'\n"})  # which comes before hidden.py
    assert t.ran() == ["a", "b"]
    assert text(t, "b") == "third"


def test_a_module_that_is_executed_under_another_name_counts(project: MakeProject) -> None:
    body = """
import importlib.util
spec = importlib.util.spec_from_file_location("other", HERE / "lib/hidden.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
text = module.X
"""
    t = project(files(body))
    assert t.ran() == ["a"]
    t.write({"lib/hidden.py": "X = 'second'\n"})
    assert t.ran() == ["a"]
    assert text(t) == "second"


def test_a_module_that_was_looked_for_in_vain_counts(project: MakeProject) -> None:
    body = "import importlib\ntry: text = importlib.import_module('extra' + '_words').X\n"
    t = project(files(f"{body}except ImportError: pass"))
    assert t.ran() == ["a"]
    assert t.ran() == []
    t.write({"lib/extra_words.py": "X = 'extra'\n"})
    assert t.ran() == ["a"]
    assert text(t) == "extra"


def test_code_that_is_read_as_text_counts_by_its_bytes(project: MakeProject) -> None:
    t = project(files("import inspect\ntext = inspect.getsource(Reads)"))
    assert t.ran() == ["a"]
    t.edit("reads.py", "    rows: list", "    # A comment.\n    rows: list")
    assert t.ran() == ["a"]
    assert "A comment" in text(t)


def test_a_database_counts_with_its_log(project: MakeProject) -> None:
    body = "import sqlite3\ndb = sqlite3.connect('file:w%2edb', uri=True)\n"
    body += "text = db.execute('SELECT * FROM t').fetchall(); db.close()"
    t = project(files(body))
    import sqlite3

    with sqlite3.connect(t.folder / "w.db") as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (x)")
    db.close()
    assert t.ran() == ["a"]
    assert t.ran() == []
    db = sqlite3.connect(t.folder / "w.db")
    db.execute("INSERT INTO t VALUES (7)")
    db.commit()
    assert (t.folder / "w.db-wal").stat().st_size
    assert t.ran() == ["a"]
    assert "7" in text(t)
    db.close()


OWN = """
cache = HERE / "cache.txt"
try: text = cache.read_text()
except OSError: text = "made"; cache.write_text(text)
"""


def test_a_step_that_changes_what_it_reads_runs_until_nothing_changes(
    project: MakeProject,
) -> None:
    t = project(files(OWN))
    assert notes(t) == ["reads cache.txt, and then changes it: the next build runs the step again"]
    assert t.ran() == ["a"]
    assert t.ran() == []
    t.write({"cache.txt": "edited"})
    assert t.ran() == ["a"]
    assert text(t) == "edited"


@pytest.mark.parametrize(
    "body",
    [
        "Path('mine').write_text('x'); text = Path('mine').read_text(); Path('mine').unlink()",
        "import shutil; os.makedirs('x'); text = os.listdir('x'); shutil.rmtree('x')",
        "open('log.txt', 'a').write('x')",
        "text = self.path and self.path.paths[0].read_text()",
        "import shutil; os.makedirs('x/y'); shutil.rmtree('x')",
        "import sqlite3; sqlite3.connect(':memory:').close()",
        "import hidden; text = hidden.X",
        "text = open('.git/HEAD').read()",
    ],
)
def test_what_is_its_own_or_in_the_key_doesnt_count(project: MakeProject, body: str) -> None:
    t = project(files(body, a={"path": "words.txt"}, b={"path": "words.txt", "tag": 1}))
    t.write({".git/HEAD": "main"})
    assert notes(t, "--jobs", "1") == []  # two steps at once would see each other's file
    assert "read " not in t.here("explain", "a", "--all").out


@pytest.mark.parametrize("make", [
    "p.write_text('made')", "Path('new').write_text('made'); os.replace('new', p)",
])  # fmt: skip
def test_a_file_that_it_made_and_read_counts_as_it_left_it(project: MakeProject, make: str) -> None:
    body = f"p = Path('mine')\nif not p.exists(): {make}\ntext = p.read_text()"
    t = project(files(body))
    assert notes(t) == []
    assert t.ran() == []
    t.write({"mine": "edited"})
    assert t.ran() == ["a"]
    assert text(t) == "edited"
    (t.folder / "mine").unlink()
    assert t.ran() == ["a"]
    assert text(t) == "made"
    assert t.ran() == []


def test_a_folder_that_it_made_and_listed_counts_as_it_left_it(project: MakeProject) -> None:
    body = "p = Path('new/er')\nif not p.exists(): p.mkdir(parents=True); (p / 'x').touch()\n"
    t = project(files(f"{body}text = sorted(os.listdir(p))"))
    assert notes(t) == []
    assert t.ran() == []
    t.write({"new/er/y": ""})
    assert t.ran() == ["a"]
    assert text(t) == "['x', 'y']"


def test_a_moved_file_counts_where_it_was(project: MakeProject) -> None:
    body = "p = Path('w')\nos.replace('words.txt', p) if not p.exists() else None"
    t = project(files(f"{body}\ntext = p.read_text()"))
    assert notes(t) == ["reads words.txt, and then changes it: the next build runs the step again"]
    assert t.ran() == ["a"]
    assert t.ran() == []


def test_steps_that_overwrite_the_same_file_settle(project: MakeProject) -> None:
    body = "p = Path('mine'); p.write_text(str(self.tag)); text = p.read_text()"
    t = project(files(body, a={}, b={"tag": 1}))
    assert sorted(t.ran()) == ["a", "b"]
    t.ran()
    assert t.ran() == []


def test_a_file_that_changes_meanwhile_makes_the_result_not_reusable(project: MakeProject) -> None:
    body = f"{READS}\nimport subprocess; subprocess.run('f=words; echo new > $f.txt', shell=True)"
    t = project(files(body))
    reason = "reads words.txt, which changes before the step ends"
    assert notes(t) == [f"{reason}: the next build runs the step again"]
    assert f"its last result can't be reused, since the step {reason}" in t.here("plan").out
    t.edit("reads.py", "echo new >", "echo")
    assert t.ran() == ["a"]
    assert t.ran() == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "for n in range(10_002):\n    try: open(f'x{n}')\n    except OSError: pass",
            "more than 10,000",
        ),
        (
            "os.path.exists('pipe') or os.mkfifo('pipe'); os.close(os.open('pipe', os.O_RDWR))",
            "neither a file nor",
        ),
        ("os.symlink(HERE / 'data', job.out / 'd'); os.unlink(job.out / 'd')", "makes a link"),
        ("d = os.open('data', 0); text = os.read(os.open('one.json', 0, dir_fd=d), 9)", "perhaps"),
        ("sys.path.append(str(HERE.parent)); import outer_words", "outside the project"),
    ],
)
def test_what_cant_be_compared_makes_the_result_not_reusable(
    project: MakeProject, body: str, reason: str
) -> None:
    t = project(files(body))
    (t.folder.parent / "outer_words.py").write_text("X = 1")
    (note,) = notes(t)
    assert reason in note
    assert t.ran() == ["a"]


def test_an_attempt_that_read_something_else_starts_anew(project: MakeProject) -> None:
    body = f"""
{READS}
job.scratch.mkdir(exist_ok=True)
part = job.scratch / "part"
if not part.exists():
    part.write_text(text)
    os.kill(os.getpid(), 9) if self.tag else None
text = part.read_text()
"""
    t = project(files(body, a={"tag": 1}))
    assert t.run("build").code == 1
    t.edit("reads.py", "if self.tag", "if not (HERE / 'go').exists()")
    assert t.run("build").code == 1
    t.write({"words.txt": "other", "go": ""})
    assert t.ran() == ["a"]
    assert text(t) == "other"


def test_equal_steps_and_forced_ones(project: MakeProject) -> None:
    t = project(files(READS, a={}, b={}))
    assert t.ran() == ["a"]
    t.write({"words.txt": "other"})
    assert t.ran() == ["a"]
    assert text(t, "b") == "other"
    assert t.ran("--force", "a") == ["a"]
    assert t.ran() == []


def test_a_copy_of_the_recipe_reads_its_own_files(project: MakeProject) -> None:
    t = project({})
    for name in ("one", "two"):
        made = files(READS)
        made["recipe.yaml"] = made["recipe.yaml"].replace("name: t", f"name: {name}")
        t.write({f"{name}/{file}": content for file, content in made.items()})
    t.write({"two/words.txt": "other"})
    assert t.ran("one/recipe.yaml") == ["a"]
    assert t.ran("two/recipe.yaml") == ["a"]
    assert t.rows("a", "two")[0]["prompt"] == "other"


def test_the_folder_in_which_the_build_starts_doesnt_matter(project: MakeProject) -> None:
    t = project(files("text = open('words.txt').read()"))
    t.write({"data/words.txt": "other"})
    inner = Project(t.folder / "data")
    assert inner.ran(str(t.folder / "recipe.yaml")) == ["a"]
    assert t.ran() == []
    assert text(t) == "words"


def test_a_link_that_leads_elsewhere_counts(project: MakeProject) -> None:
    t = project(files("text = (HERE / 'now/one.json').read_text()"))
    t.write({"late/one.json": "2"})
    (t.folder / "now").symlink_to("data")
    assert t.ran() == ["a"]
    (t.folder / "now").unlink()
    (t.folder / "now").symlink_to("late")
    assert t.ran() == ["a"]
    assert text(t) == "2"


def test_results_that_are_gone_leave_no_names(project: MakeProject) -> None:
    t = project(files(READS))
    for number in range(4):
        t.write({"words.txt": str(number)})
        assert t.ran() == ["a"]
    assert t.here("cache", "gc", "--keep", "1").code == 0
    store = open_store(t.folder / "recipe.yaml")
    assert len(store.rows("SELECT name FROM facts WHERE name LIKE 'reads of %'")) == 1
    store.close()
    assert t.ran() == []
    assert t.here("cache", "verify").code == 0
    assert t.ran() == []


def test_names_travel_with_results(
    project: MakeProject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp_path = tmp_path_factory.mktemp("machines")
    (tmp_path / "team").mkdir()
    made = {
        **files(READS),
        "finery.toml": f'remote = "file://{tmp_path}/team"\npush = true\n',
        ".git/HEAD": "",
    }
    t, other = project(made), Project(tmp_path / "other")
    other.write(made)
    assert t.ran() == ["a"]
    assert t.run("export", "--bundle", "t.tar").code == 0
    assert other.ran() == []
    other.write({"words.txt": "other"})
    assert other.ran() == ["a"]
    assert other.ran() == []
    t.write({"words.txt": "other"})
    assert t.ran() == []
    assert len(list((tmp_path / "team").glob("reads/*/*"))) == 1
    expire(open_objects(f"file://{tmp_path}/team"), -1, dry_run=False)
    assert not [path for path in (tmp_path / "team").rglob("*") if path.is_file()]
    third = Project(tmp_path / "third")
    third.write({**files(READS), ".git/HEAD": ""})
    assert third.here("import", str(t.folder / "t.tar")).code == 0
    assert third.ran() == []


ENGINE = """
from pathlib import Path

from finery import Completion, Dataset, Engine, Job, Model, Step, hookimpl, setting


class Api(Engine):
    def generate(self, requests, sampling):
        text = Path("template.txt").read_text()
        return [Completion(text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)
                for _ in requests]


class Named(Step, seeded=False):
    "A model."

    def run(self, job: Job) -> Model:
        return Model(job.out, meta={"format": "test-api"})


class Ask(Step, engines=True, seeded=False):
    "Its answers."

    model: Model
    tag: int = setting(0, help="Changes the key.")

    def run(self, job: Job) -> Dataset:
        answers = job.engine(self.model).generate([[{"role": "user", "content": "q"}]])
        return Dataset.write(job.out, [{"prompt": a.text} for a in answers])


@hookimpl
def finery_steps(): return {"t.named": Named, "t.ask": Ask}


@hookimpl
def finery_engines(): return {"test-api": Api}
"""


def test_answers_of_an_engine_that_reads_a_file_arent_kept(project: MakeProject) -> None:
    recipe = "finery: 1\nname: t\nplugins: [engine.py]\nmodels: {api: {use: t.named}}\n"
    steps = "data: {a: {use: t.ask, model: api}, b: {use: t.ask, model: api, tag: 1}}\n"
    t = project({"recipe.yaml": recipe + steps, "engine.py": ENGINE, "template.txt": "first"})
    assert t.ran() == ["a", "api", "b"]
    t.write({"template.txt": "second"})
    assert t.ran() == ["a", "b"]
    assert (text(t), text(t, "b")) == ("second", "second")


NAMES = [
    "/etc/shadow",
    "../outside",
    "module /etc/x",
    "module ../x",
    "import os.path",
    "a\0b",
    "//x",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_a_stranger_are_compared_only_in_the_project(tmp_path: Path, name: str) -> None:
    places = Places(str(tmp_path), str(tmp_path / ".finery"), (f"{tmp_path}/",))
    remote, key = Remote(f"file://{tmp_path}/team"), "ab" * 32
    push_list(remote, key, [(f"{READ}{name}", "x")])
    push_list(remote, key, [(f"{READ}words.txt", "x")])
    assert fetch_read_lists(remote, [key], {key: places}) == {key: [[f"{READ}words.txt"]]}
    assert not places.is_checked(name)


@pytest.mark.parametrize("content", [b"", b"[", b'["a"]', b"[[1]]", b'[["b","a"]]', b"[[]]"])
def test_a_list_that_cant_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    remote, key = Remote(f"file://{tmp_path}/team"), bytes(32)
    remote.put_value("reads", key, content)
    places = Places(str(tmp_path), str(tmp_path / ".finery"))
    assert fetch_read_lists(remote, [key.hex()], {key.hex(): places}) == {key.hex(): []}


FILES = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"))


@given(
    runs=st.lists(st.tuples(FILES, st.frozensets(st.sampled_from("abc"))), max_size=5), now=FILES
)
def test_a_result_is_found_if_all_that_it_read_is_the_same(
    runs: list[tuple[dict[str, str], frozenset[str]]], now: dict[str, str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store, places = Store(Path(folder, ".finery")), Places(folder, f"{folder}/.finery")
        parts: Parts = [("step type", "x")]
        key, fitting, plain = key_of(parts), set(), False
        for files, read in runs:
            _set(folder, files)
            reads = current_values(store, places, [f"{READ}{name}" for name in sorted(read)])
            made = Result(result_key(key, reads), {}, 0.0, [*parts, *reads])
            store.commit([made], run="")
            plain = not read
            if read and all(files.get(name) == now.get(name) for name in read):
                fitting.add(made.key)
        _set(folder, now)
        found = find_result(store, key, parts, [], lambda: places)
        store.close()
    allowed = fitting | ({key} if plain else set())
    assert found.key in allowed if found else not allowed


def _set(folder: str, files: dict[str, str]) -> None:
    for name in "abc":
        Path(folder, name).unlink(missing_ok=True)
        if name in files:
            Path(folder, name).write_text(files[name])
