"""Files that a step reads without declaring them are named, once a step, through the command."""

import json
from typing import Any

import pytest
from conftest import MakeProject, Project

STEPS = '''
import sys
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
        {body}
        return Dataset.write(job.out, [{{"prompt": "x", "tag": self.tag}}])


@hookimpl
def finery_steps():
    return {{"reads.it": Reads}}
'''


def files(body: str, top: str = "", **steps: dict[str, Any]) -> dict[str, str]:
    """A project whose step type runs `body`."""
    data = {name: {"use": "reads.it", **step} for name, step in (steps or {"a": {}}).items()}
    return {
        "recipe.yaml": f"finery: 1\nname: t\nplugins: [reads.py]\ndata: {json.dumps(data)}\n",
        "reads.py": STEPS.format(body=body, top=top),
        "words.txt": "words",
        "lib/hidden.py": "X = 1\n",
    }


def notes(t: Project) -> list[tuple[str, str]]:
    """(step, text) of the notes in a build."""
    events = t.events()
    assert events[-1]["event"] == "build_finished"
    named = [e for e in events if e["event"] == "step_note"]
    assert {e["name"] for e in named} <= {"undeclared-read"}
    return sorted(((e["step"], e["text"]) for e in named), key=lambda note: note[0])


READS = "(HERE / 'words.txt').read_text()"


def test_a_file_that_a_step_reads_undeclared_is_named_with_the_fix(project: MakeProject) -> None:
    t = project(files(READS))
    code, _, err = t.run("build")
    assert code == 0
    assert "  note    a  reads.it  reads words.txt, which isn't declared" in err
    assert "(undeclared-read)\n          fix: declare it in the step type" in err
    assert err.count("words.txt, which") == 1
    assert "note" not in t.run("build").err


@pytest.mark.parametrize(
    "body",
    [
        "[open(HERE / 'words.txt').close() for _ in range(3)]",
        "open(b'lib/../words.txt', 'r+b').close()",
        "import os; os.close(os.open(str(HERE / 'words.txt'), os.O_RDONLY))",
        "import sqlite3; sqlite3.connect(f'file:{HERE}/words.txt?mode=ro', uri=True).close()",
        "import threading as t; f = t.Thread(target=open, args=['words.txt']); f.start(); f.join()",
    ],
)
def test_it_is_named_once_however_it_is_opened(project: MakeProject, body: str) -> None:
    text = "reads words.txt, which isn't declared: the step doesn't rerun when that file changes"
    assert notes(project(files(body))) == [("a", text)]


@pytest.mark.parametrize(
    "body",
    [
        "self.path.paths[0].read_text()",
        "(job.scratch / 'x').write_text('x'); (job.scratch / 'x').read_text()",
        "open('mine', 'w').write('x'); open('mine').read(); Path('mine').unlink()",
        "import subprocess; subprocess.run(['cat', 'lib/hidden.py'])",
        "Path('nowhere').exists() or Path('lib').is_dir()",
        "import hidden",
    ],
)
def test_what_is_declared_or_no_file_of_the_project_is_not_named(
    project: MakeProject, body: str
) -> None:
    t = project(files(body, a={"path": "words.txt"}, b={"path": "words.txt", "rows": ["a"]}))
    assert notes(t) == []


def test_every_step_that_reads_it_gets_the_note(project: MakeProject) -> None:
    t = project(files(READS, a={}, b={"tag": 1}))
    assert sorted(step for step, _ in notes(t)) == ["a", "b"]


def test_an_output_that_is_no_input_is_named(project: MakeProject) -> None:
    body = "self.tag and (HERE / 'build/t/a/rows-00000.jsonl').read_text()"
    t = project(files(body, a={}, b={"tag": 1, "rows": ["a"]}))
    assert [text.split(",")[0] for _, text in notes(t)] == ["reads build/t/a/rows-00000.jsonl"]


def test_what_a_plugin_file_reads_when_it_is_imported_is_named(project: MakeProject) -> None:
    t = project(files("HEAD", top="HEAD = (HERE / 'words.txt').read_text()", a={}, b={"tag": 1}))
    assert [(step, text.split(",")[0]) for step, text in notes(t)] == [
        ("a", "reads words.txt"),
        ("b", "reads words.txt"),
    ]


IMPORT = "__import__('importlib').import_module('hid' + 'den')"


@pytest.mark.parametrize(("body", "top"), [(IMPORT, ""), ("hidden", f"hidden = {IMPORT}")])
def test_code_beside_the_recipe_that_no_key_has_is_named(
    project: MakeProject, body: str, top: str
) -> None:
    t = project(files(body, top, a={}, b={"tag": 1}))
    assert [(step, text.split(",")[0]) for step, text in notes(t)] == [
        ("a", "imports lib/hidden.py"),
        ("b", "imports lib/hidden.py"),
    ]


def test_code_from_a_folder_that_only_run_adds_to_the_path_is_named(
    project: MakeProject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lib = tmp_path_factory.mktemp("lib")
    (lib / "outer.py").write_text("X = 1\n")
    t = project(files(f"sys.path.append({str(lib)!r}); import outer", a={}, b={"tag": 1}))
    assert [(step, text.split(",")[0]) for step, text in notes(t)] == [
        ("a", f"imports {lib}/outer.py"),
        ("b", f"imports {lib}/outer.py"),
    ]


def test_code_that_cannot_change_an_output_is_not_named(project: MakeProject) -> None:
    t = project(files(f"assert {IMPORT}.Places"))
    t.write({"lib/hidden.py": "from finery import Traceable\nclass Places(Traceable): ...\n"})
    t.edit("reads.py", "seeded=False", 'seeded=False, traceable="hidden:Places"')
    assert notes(t) == []


@pytest.mark.parametrize("name", ["undeclared-read", "a/undeclared-read"])
def test_the_recipe_can_silence_it(project: MakeProject, name: str) -> None:
    t = project(files(READS))
    assert notes(t)
    t.edit("recipe.yaml", "name: t", f"name: t\nsilence: [{name}]")
    t.edit("reads.py", '"x"', '"y"')
    assert notes(t) == []


def test_a_step_in_a_process_of_its_own_gets_the_note_too(project: MakeProject) -> None:
    t = project(files(READS))
    t.edit("reads.py", "seeded=False", "seeded=False, isolated=True")
    assert [step for step, _ in notes(t)] == ["a"]
