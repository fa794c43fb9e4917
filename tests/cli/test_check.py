"""`finery check`: right or wrong, quickly, and nothing else."""

import json
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
    assert ran == (0, "recipe.yaml is fine: 2 steps\n", "")


def test_a_folder_stands_for_its_recipe(project: MakeProject) -> None:
    made = project({f"sub/{name}": text for name, text in FILES.items()})
    made.write({"sub/steps.py": (made.folder / "steps.py").read_text()})
    assert made.run("check", "sub").out == "sub/recipe.yaml is fine: 2 steps\n"


def test_check_leaves_nothing_behind(project: MakeProject) -> None:
    made = project(FILES)
    before = sorted(made.folder.iterdir())
    made.run("check")
    assert sorted(p for p in made.folder.iterdir() if p.name != "__pycache__") == before


def test_json_has_stable_names(project: MakeProject) -> None:
    ran = project(FILES).run("check", "--json")
    assert json.loads(ran.out) == {"recipe": "t", "steps": 2, "advice": []}


def test_all_missing_files_are_told_at_once(project: MakeProject) -> None:
    recipe = RECIPE.replace("rows.txt}", "row.txt}") + '  c: {use: steps.source, path: "*.md"}\n'
    ran = project({**FILES, "recipe.yaml": recipe}).run("check")
    assert ran.code == 2
    assert "recipe.yaml:5:32: error: there is no file row.txt" in ran.err
    assert "did you mean 'rows.txt'?" in ran.err
    assert "recipe.yaml:7:32: error: no file matches *.md" in ran.err


def test_plugins_and_unset_variables_give_advice(project: MakeProject) -> None:
    advice = """\
from finery import hookimpl

@hookimpl
def finery_checks(recipe):
    return [f"{recipe.name} could be longer"]
"""
    recipe = RECIPE.replace("[steps.py]", "[steps.py, advice.py]")
    recipe = recipe.replace("rows: a}", "rows: a, env: [FINERY_TEST_UNSET]}")
    ran = project({**FILES, "recipe.yaml": recipe, "advice.py": advice}).run("check")
    assert ran.code == 0
    assert ran.out.splitlines()[:2] == [
        "note: step 'b' takes the environment variable FINERY_TEST_UNSET, which isn't set here",
        "note: t could be longer",
    ]


def test_set_is_checked_too(project: MakeProject) -> None:
    made = project(FILES)
    assert made.run("check", "--set", "data.b.tag=7").code == 0
    ran = made.run("check", "--set", "data.b.tag=many")
    assert ran.code == 2
    assert ran.err.startswith("--set data.b.tag=many: error: 'tag' can't be 'many'\n  fix: ")


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
