"""Steps with one key under several names: built once, by one build or by two, and shown well."""

from pathlib import Path

from conftest import MakeProject

WAIT = "import time; time.sleep(0.5); open(os.environ['RAN'], 'a').write('x')"
RECIPE = f"""\
finery: 1
plugins: [steps.py]
name: t
data:
  lines: {{use: steps.source, path: lines.txt}}
  a: {{use: steps.shuffle, rows: lines}}
  b: {{use: steps.shuffle, rows: lines}}
  other: {{use: steps.shuffle, rows: lines, seed: 3}}
  one: {{use: steps.alone, code: "{WAIT}", env: [RAN]}}
  two: {{use: steps.alone, code: "{WAIT}", env: [RAN]}}
"""
FILES = {"recipe.yaml": RECIPE, "lines.txt": "x\ny\nz\nu\nv\n"}


def test_equal_steps_run_once_and_the_other_is_cached(project: MakeProject, tmp_path: Path) -> None:
    made = project(FILES)
    made.env["RAN"] = str(tmp_path / "ran")
    plan = made.run("plan", "--step", "one", "--step", "two")
    assert "equal to one: built once" in plan.out
    ran = made.ran("-j", "4")
    assert len({"one", "two"} & {*ran}) == len({"a", "b"} & {*ran}) == 1
    assert (tmp_path / "ran").read_text().count("x") == 1
    assert made.rows("a") == made.rows("b") != made.rows("other")
    assert made.ran() == []


def test_two_builds_at_once_make_equal_steps_once(project: MakeProject, tmp_path: Path) -> None:
    made = project(FILES)
    made.env["RAN"] = str(tmp_path / "ran")
    builds = [made.start("build", "-j", "4") for _ in range(2)]
    for build in builds:
        build.communicate(timeout=120)
    assert [build.returncode for build in builds] == [0, 0]
    assert (tmp_path / "ran").read_text().count("x") == 1
    assert "two" in made.run("show").out
