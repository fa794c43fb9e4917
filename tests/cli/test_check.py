"""`finery check`: right or wrong, quickly, and nothing else."""

import json
import os
import pty
import subprocess
import sys

import pytest
from conftest import MakeProject

RECIPE = """\
finery: 1
name: t
plugins: [steps.py]
data:
  a: {use: steps.source, path: rows.txt}
  b: {use: steps.copy, rows: a}
"""
FILES = {"recipe.yaml": RECIPE, "rows.txt": "one\n"}
HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "gguf", "rich", "numpy", "pyarrow")


def test_a_right_recipe_is_fine(project: MakeProject) -> None:
    ran = project(FILES).run("check")
    assert ran == (0, "recipe.yaml is valid: 2 steps\n", "")


def test_check_leaves_nothing_behind(project: MakeProject) -> None:
    made = project(FILES)
    before = sorted(made.folder.iterdir())
    made.run("check")
    assert sorted(p for p in made.folder.iterdir() if p.name != "__pycache__") == before


def test_a_terminal_shows_which_step_is_checked(project: MakeProject) -> None:
    made = project(FILES)
    made.env["TERM"] = "xterm"
    screen, terminal = pty.openpty()
    assert made.start("check", stderr=terminal).wait(120) == 0
    os.close(terminal)
    cleared = "\r\x1b[2K"
    assert os.read(screen, 10_000).decode() == (
        f"{cleared}checking a …\r{cleared}checking b …\r{cleared}\r"
    )
    os.close(screen)


def test_json_has_stable_names(project: MakeProject) -> None:
    ran = project(FILES).run("check", "--json")
    assert json.loads(ran.out) == {"recipe": "t", "steps": 2, "notes": []}


def test_all_missing_files_are_told_at_once(project: MakeProject) -> None:
    recipe = RECIPE.replace("rows.txt}", "row.txt}") + '  c: {use: steps.source, path: "*.md"}\n'
    ran = project({**FILES, "recipe.yaml": recipe}).run("check")
    assert ran.code == 2
    assert "recipe.yaml:5:32: error: there is no file row.txt" in ran.err
    assert "did you mean 'rows.txt'?" in ran.err
    assert "recipe.yaml:7:32: error: no file matches *.md" in ran.err


def test_a_wrong_distribution_is_an_error_beside_others(project: MakeProject) -> None:
    """Also if no store exists, and for each step with its place and that of its class."""
    made = project({**FILES, "recipe.yaml": RECIPE + "  c: {use: steps.source, path: gone.txt}\n"})
    made.edit("steps.py", "class Source(Step, ", 'class Source(Step, packages=("yaml",), ')
    line = (made.folder / "steps.py").read_text().partition("class Source(")[0].count("\n") + 1
    for command in ("check", "plan", "build", "check"):
        code, out, err = made.run(command)
        assert (code, out) == (2, "")
        for place in ("5:12", "7:12"):
            assert f"recipe.yaml:{place}: error: steps.py:Source names the distribution" in err
        assert f"steps.py:{line}: class Source(" in err
        assert "did you mean 'pyyaml'?" in err
        assert "recipe.yaml:7:32: error: there is no file gone.txt" in err
        assert "3 mistakes" in err


def test_a_long_path_is_shown_whole(project: MakeProject) -> None:
    path = "a/rather/long/folder/" * 10 + "rows.txt"
    ran = project({**FILES, "recipe.yaml": RECIPE.replace("rows.txt", path)}).run("check")
    assert f"error: there is no file {path}\n" in ran.err


NOTES = """\
from finery import Note, hookimpl
from finery.advanced import About

@hookimpl
def finery_notes():
    return {"short": About(when="a recipe is short", why="Longer ones hold more.")}

@hookimpl
def finery_checks(graph, results):
    built = results.meta("b")
    rows = f", b has {built['rows']} rows" if built else ""
    whole = Note(name="short", text=f"{graph.recipe.name} could be longer{rows}")
    return [whole, Note(name="short", step="a", text="a is short", fix="lengthen it")]
"""
NOTED = {
    **FILES,
    "recipe.yaml": RECIPE.replace("[steps.py]", "[steps.py, notes.py]"),
    "notes.py": NOTES,
}


def test_notes_tell_what_why_where_and_what_to_write(project: MakeProject) -> None:
    made = project(NOTED)
    made.edit("recipe.yaml", "rows: a}", "rows: a, env: [FINERY_TEST_UNSET]}")
    ran = made.run("check")
    assert ran.code == 0
    assert ran.out.splitlines()[:6] == [
        "note: a is short (recipe.yaml:5)",
        "  fix: lengthen it",
        "note: t could be longer (recipe.yaml:1)",
        "  Longer ones hold more. (short)",
        "note: b needs the environment variable FINERY_TEST_UNSET, which isn't set (recipe.yaml:6)",
        "  fix: export FINERY_TEST_UNSET=…",
    ]
    assert ran.out.splitlines()[7] == (
        "To silence these notes, add `silence: [short, unset-variable]`. "
        "See docs/reference/advice.md."
    )


def test_the_line_to_silence_notes_keeps_those_that_are_silenced(project: MakeProject) -> None:
    made = project(NOTED)
    made.edit("recipe.yaml", "name: t", "name: t\nsilence: [b/short]")
    line = "To silence these notes, set `silence: [b/short, short]`."
    assert line in made.run("check").out
    made.edit("recipe.yaml", "[b/short]", "[b/short, short]")
    assert "note:" not in made.run("check").out


@pytest.mark.parametrize(("silence", "left"), [("short", 0), ("a/short", 1), ("b/short", 2)])
def test_a_recipe_silences_notes(project: MakeProject, silence: str, left: int) -> None:
    made = project(NOTED)
    made.edit("recipe.yaml", "name: t", f"name: t\nsilence: [{silence}]")
    assert made.run("check").out.count("note:") == left


@pytest.mark.parametrize(("silence", "what", "fix"), [
    ("shrot", "there is no note 'shrot'", "did you mean 'short'?"),
    ("aa/short", "there is no step 'aa'", "did you mean 'a'?"),
    ("a/b/short", "there is no step 'a/b'", "one of: a, b"),
    ("7", "'[0]' can't be 7", "put it in quotes"),
])  # fmt: skip
def test_only_notes_can_be_silenced(
    project: MakeProject, silence: str, what: str, fix: str
) -> None:
    made = project(NOTED)
    made.edit("recipe.yaml", "name: t", f"name: t\nsilence: [{silence}]")
    ran = made.run("check")
    assert ran.code == 2
    assert f"recipe.yaml:3:11: error: {what}" in ran.err
    assert fix in ran.err


def test_silence_changes_no_key(built: MakeProject) -> None:
    made = built(NOTED)
    made.edit("recipe.yaml", "name: t", "name: t\nsilence: [short]")
    assert made.ran() == []


@pytest.mark.parametrize(("old", "new", "what"), [
    ('return {"short"', 'return {"long"', "returns the note 'short', which no plugin declares"),
    ("return [whole,", "return ['be brief',", "returns 'be brief', which isn't a note"),
])  # fmt: skip
def test_a_plugin_gives_declared_notes(project: MakeProject, old: str, new: str, what: str) -> None:
    made = project(NOTED)
    made.edit("notes.py", old, new)
    ran = made.run("check")
    assert ran.code == 2
    assert what in ran.err


@pytest.mark.parametrize(
    "args", [["--help"], ["check"], ["plan"], ["plugins"], ["schema"], ["plugins", "data.file"]]
)
def test_light_commands_import_nothing_heavy(args: list[str], project: MakeProject) -> None:
    code = f"""\
import sys
sys.argv = ["finery", *{args!r}]
from finery.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
found = [name for name in {HEAVY!r} if name in sys.modules]
assert not found, found
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=project(FILES).folder, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


PACKAGES = """\
from finery import Dataset, Job, Resources, Step, hookimpl

class Shop(Step):
    "Sell."
    def resources(self):
        needed = ("click", "no-such-package", "no-such-other")
        return Resources(packages=dict.fromkeys(needed, "shop[cart]"))
    def run(self, job: Job) -> Dataset: ...

@hookimpl
def finery_steps():
    return {"shop.rows": Shop}
"""


@pytest.mark.parametrize("command", ["check", "plan", "build"])
def test_missing_packages_are_reported_with_what_to_install(
    project: MakeProject, command: str
) -> None:
    recipe = (
        "finery: 1\nname: t\nplugins: [shop.py]\ndata: {a: {use: shop.rows}, b: {use: shop.rows}}\n"
    )
    ran = project({"recipe.yaml": recipe, "shop.py": PACKAGES}).run(command)
    assert command == "build" or ran.code == 0, ran.err
    printed = ran.err if command == "build" else ran.out
    assert (
        "a, b need packages that aren't installed here: no-such-package, no-such-other" in printed
    )
    assert "fix: pip install 'shop[cart]'" in printed


@pytest.mark.parametrize(("rows", "says"), [
    ('{"prompt": "a", "completion": "b"}\n' * 1_100 + "{\n", None),  # further down than it looks
    ('{"prompt": "a", "completion": "b"}\n' * 9 + "{\n", "a.jsonl:10: error: invalid JSON"),
    ('{"prompt": "a", "completion": ""}\n' * 1_100, "found in the first 1,000 rows"),
])  # fmt: skip
def test_the_first_rows_of_files_are_read(
    project: MakeProject, rows: str, says: str | None
) -> None:
    recipe = "finery: 1\nname: t\ndata: {a: {use: data.file, path: a.jsonl}}\n"
    for command in ("check", "build"):
        ran = project({"recipe.yaml": recipe, "a.jsonl": rows}).run(command)
        assert ran.code == (2 if says or command == "build" else 0), ran.err
        assert says is None or says in ran.err
