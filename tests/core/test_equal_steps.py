"""Steps with one key under several names: built once, by one build or by two, and shown well."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TWO_STEPS, MakeProject
from in_process import InProcess

from finery.builder.project import open_graph, open_store
from finery.builder.scheduler import Build
from finery.store.database import Store

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


LOCKS = """\
import sys
from pathlib import Path
from finery.util.locks import KeyLocks
sys.exit(0 if KeyLocks(Path(sys.argv[1])).acquire(bytes.fromhex(sys.argv[2])) else 9)
"""


def is_locked(store: Store, key: str) -> bool:
    """Whether another process can't lock a key."""
    other = [sys.executable, "-c", LOCKS, str(store.root / "locks"), key]
    return {0: False, 9: True}[subprocess.run(other, check=False).returncode]


def test_a_key_stays_locked_until_its_folders_are_gone(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another build may be forced to run the step again, in folders of the same names."""
    recipe = project({"recipe.yaml": TWO_STEPS, "rows.txt": "one\n"}).folder / "recipe.yaml"
    clear, cleared = Store.clear_work, dict[str, bool]()

    def clears(store: Store, key: str) -> None:
        cleared[key] = is_locked(store, key)
        clear(store, key)

    monkeypatch.setattr(Store, "clear_work", clears)
    store = open_store(recipe)
    assert not Build(open_graph(recipe, (), store), store, InProcess()).run().errors
    assert [*cleared.values()] == [True, True]
    assert [*store.root.glob("work/*")] == []
    assert not any(is_locked(store, key) for key in cleared)
    store.close()
