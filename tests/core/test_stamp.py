"""The stamp: it says "nothing to do" only when the long road would say so too."""

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeProject, Project
from in_process import build

from finery.build import uptodate as stamp
from finery.util import files as clock

RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source, path: "rows/*.txt"}
  b: {use: steps.copy, rows: a}
export:
  files: {use: steps.pack, code: "(job.out / 'sub').mkdir(); (job.out / 'sub/x').write_text('x')"}
"""


@pytest.fixture
def stamped(project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose last build is stamped."""
    monkeypatch.setattr(clock, "FINE_NS", 20_000_000)
    monkeypatch.setattr(stamp, "_PATH", tuple(sys.path))  # pytest adds to it while it collects
    made = project({"recipe.yaml": RECIPE, "rows/one.txt": "one\n"})
    keep(made)
    assert done(made) == 3
    return made


def keep(t: Project) -> None:
    """Build, and stamp the build."""
    time.sleep(0.05)  # more than FINE_NS, which is more than the grain of the clock of files
    made = build(t.folder / "recipe.yaml")
    stamp.keep(made, (), ())
    made.store.close()


def done(t: Project) -> int | None:
    """The stamp's answer."""
    return stamp.steps_if_done(t.folder / "recipe.yaml", (), ())


def blob(t: Project) -> Path:
    """The file behind step b's rows."""
    return (t.folder / "build/t/b/rows-00000.jsonl").resolve()


def same_bytes_twice(t: Project) -> None:
    """Write a file's own content into it: its bytes are as before, its time isn't."""
    (t.folder / "recipe.yaml").write_bytes((t.folder / "recipe.yaml").read_bytes())


CHANGES: dict[str, Callable[[Project], object]] = {
    "the recipe": lambda t: t.edit("recipe.yaml", "name: t", "name: u"),
    "the recipe's time": same_bytes_twice,
    "a plugin file": lambda t: t.edit("steps.py", "Copy(Step", "Copy( Step"),
    "an outside file": lambda t: t.edit("rows/one.txt", "one", "two"),
    "a new outside file": lambda t: t.write({"rows/two.txt": "two"}),
    "a lost outside file": lambda t: (t.folder / "rows/one.txt").rename(t.folder / "rows/1.txt"),
    "the lock": lambda t: t.write({"recipe.lock": "a: b"}),
    "a lost blob": lambda t: blob(t).unlink(),
    "a touched blob": lambda t: os.utime(blob(t)),
    "a view's link": lambda t: ((t.folder / "build/t/b").resolve() / "rows-00000.jsonl").unlink(),
    "a link in a folder": lambda t: ((t.folder / "build/t/files").resolve() / "sub/x").unlink(),
    "a link under build": lambda t: (t.folder / "build/t/b").unlink(),
    "the build folder": lambda t: shutil.rmtree(t.folder / "build"),
    "the store": lambda t: (t.folder / ".finery/finery.db").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_takes_the_long_road(stamped: Project, change: str) -> None:
    CHANGES[change](stamped)
    assert done(stamped) is None


def test_other_arguments_take_the_long_road(stamped: Project) -> None:
    recipe = stamped.folder / "recipe.yaml"
    assert stamp.steps_if_done(recipe, ["a"], ()) is None
    assert stamp.steps_if_done(recipe, (), ["data.b.tag=1"]) is None


def test_what_is_installed_takes_the_long_road(
    stamped: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "more")])
    assert done(stamped) is None


def test_a_copy_of_a_project_is_not_the_original(
    stamped: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = Project(tmp_path_factory.mktemp("copy") / "copy")
    shutil.copytree(stamped.folder, copy.folder, symlinks=True)
    copy.edit("recipe.yaml", "rows: a}", "rows: a, tag: 7}")
    assert done(copy) is None
    assert done(stamped) == 3


@pytest.mark.parametrize("changed", ["recipe.yaml", "rows/one.txt", "steps.py"])
def test_what_changes_while_a_build_runs_is_not_stamped(stamped: Project, changed: str) -> None:
    code = f"with open('{stamped.folder / changed}', 'a') as out: out.write('# more')"
    stamped.edit(
        "recipe.yaml", "(job.out / 'sub').mkdir();", f"{code}\\n(job.out / 'sub').mkdir();"
    )
    keep(stamped)
    assert done(stamped) is None


def test_what_a_step_did_to_its_inputs_is_not_stamped(stamped: Project) -> None:
    code = "p = step.rows[0].file('rows-00000.jsonl'); p.chmod(0o644); p.write_text('{}')"
    step = f'rows: a}}\n  evil: {{use: steps.script, rows: b, code: "{code}"}}'
    stamped.edit("recipe.yaml", "rows: a}", step)
    keep(stamped)
    assert done(stamped) is None


def test_the_command_uses_it(project: MakeProject) -> None:
    t = project({"recipe.yaml": RECIPE, "rows/one.txt": "one\n"})
    t.run("build")
    same_bytes_twice(t)
    time.sleep(0.3)  # until a file can't change again without its time showing it
    took_the_long_road = t.run("build").err
    quick = t.run("build").err
    assert "3 steps, nothing to do" in quick
    assert "(" in took_the_long_road
    assert "(" not in quick
    t.edit("rows/one.txt", "one", "two")
    assert "2 built" in t.run("build").err
