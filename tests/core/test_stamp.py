"""The stamp: it says "nothing to do" only when the long road would say so too."""

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import LIGHT_STEPS, MakeProject, Project
from in_process import InProcess, build

from finery import Key, Step
from finery.advanced import Graph
from finery.builder import project as project_of
from finery.builder import uptodate as stamp
from finery.builder.project import open_graph
from finery.cli.commands import build as command
from finery.execute import local
from finery.plugin import manager
from finery.plugin.discovery import COMPILED
from finery.step.inspect import FILE_MODULE
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
def stamping(project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> MakeProject:
    """Makes projects that can be stamped by `write_stamp`."""
    monkeypatch.setattr(clock, "FINE_NS", 20_000_000)
    monkeypatch.setattr(stamp, "_PATH", tuple(sys.path))  # pytest adds to it while it collects
    return project


@pytest.fixture
def stamped(stamping: MakeProject) -> Project:
    """A project whose last build is stamped."""
    made = stamping({"recipe.yaml": RECIPE, "rows/one.txt": "one\n"})
    keep(made)
    assert done(made) == 3
    return made


def keep(t: Project) -> None:
    """Build, and stamp the build."""
    time.sleep(0.05)  # more than FINE_NS, which is more than the grain of the clock of files
    path = [*sys.path]
    made = build(t.folder / "recipe.yaml")
    stamp.write_stamp(made, (), ())
    made.store.close()
    forget_plugins(path)


def forget_plugins(path: list[str]) -> None:
    """As in the next process: loading a plugin file adds to `sys.path`, and happens once."""
    sys.path[:] = path
    for name in [name for name in sys.modules if name.startswith(FILE_MODULE)]:
        del sys.modules[name]
    manager._loaded.clear()
    COMPILED.clear()


def done(t: Project) -> int | None:
    """The stamp's answer."""
    finished = stamp.finished_if_done(t.folder / "recipe.yaml", (), ())
    return None if finished is None else finished.steps


def test_a_new_file_is_noticed_where_the_path_of_the_project_has_brackets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "FINE_NS", 20_000_000)
    monkeypatch.setattr(stamp, "_PATH", tuple(sys.path))
    made = Project(tmp_path / "bot [v2]")
    steps = LIGHT_STEPS.read_text(encoding="utf-8")
    made.write({".git/x": "", "steps.py": steps, "recipe.yaml": RECIPE, "rows/one.txt": "one\n"})
    keep(made)
    assert done(made) == 3
    made.write({"rows/two.txt": "two\n"})
    assert done(made) is None


def import_helper(t: Project) -> None:
    """Let the plugin file import a file that no process has imported yet, inside a function."""
    code = "\n\ndef later():\n    import helper\n    return helper\n"
    t.write({"steps.py": (t.folder / "steps.py").read_text() + code, "helper.py": "x = 1\n"})


def test_a_file_with_the_name_of_an_imported_module_may_become_a_package(stamped: Project) -> None:
    import_helper(stamped)
    stamped.write({"helper": "a script\n"})
    time.sleep(0.05)
    keep(stamped)
    assert done(stamped) == 3
    (stamped.folder / "helper").unlink()
    stamped.write({"helper/__init__.py": "x = 2\n"})
    assert done(stamped) is None


@pytest.mark.parametrize("changed", ["recipe.yaml", "rows/one.txt", "steps.py", "helper.py"])
def test_a_file_that_was_written_just_before_a_build_is_compared_by_its_content(
    stamped: Project, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """As if the build had begun within the grain of the clock of files."""
    import_helper(stamped)
    monkeypatch.setattr(clock, "FINE_NS", 3_000_000_000)  # longer than a build
    stamped.write({changed: (stamped.folder / changed).read_text() + "# more\n"})
    keep(stamped)
    assert done(stamped) == 3
    before = (stamped.folder / changed).stat()
    stamped.edit(changed, "# more", "# else")
    os.utime(stamped.folder / changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert done(stamped) is None
    stamped.edit(changed, "# else", "# more")
    assert done(stamped) == 3


@pytest.mark.parametrize("changed", ["recipe.yaml", "rows/one.txt", "steps.py", "helper.py"])
@pytest.mark.parametrize("hides", [True, False])
def test_what_changes_unseen_after_it_was_read_is_not_stamped(
    stamped: Project, monkeypatch: pytest.MonkeyPatch, changed: str, hides: bool
) -> None:
    """By the clock of files, it changed before the build began, or it has even the old time."""
    import_helper(stamped)
    monkeypatch.setattr(clock, "FINE_NS", 3_000_000_000)  # longer than a build
    stamped.write({changed: (stamped.folder / changed).read_text() + "# more\n"})
    path = [*sys.path]
    made = build(stamped.folder / "recipe.yaml")
    stamped.edit(changed, "# more", "# else")
    if hides:
        made.began = time.time_ns()
    stamp.write_stamp(made, (), ())
    made.store.close()
    forget_plugins(path)
    assert done(stamped) is None


def test_code_that_changes_unseen_after_it_was_imported_is_not_stamped(
    stamped: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key has another content than the classes that the recipe was checked with."""
    edit = "from pathlib import Path\n\nown = Path(__file__)\n"
    edit += "own.write_text(own.read_text().replace('# ' + 'old', '# ' + 'new'))\n"
    monkeypatch.setattr(clock, "FINE_NS", 3_000_000_000)  # longer than a build
    stamped.write({"steps.py": f"{(stamped.folder / 'steps.py').read_text()}\n{edit}# old\n"})
    path = [*sys.path]
    made = build(stamped.folder / "recipe.yaml")
    made.began = time.time_ns()
    stamp.write_stamp(made, (), ())
    made.store.close()
    forget_plugins(path)
    assert (stamped.folder / "steps.py").read_text().endswith("# new\n")
    assert done(stamped) is None


def test_no_edit_after_a_build_is_missed(stamped: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edits at all distances from a build, with sizes that stay the same, and times set back."""
    chance = random.Random(0)
    for number in range(60):
        monkeypatch.setattr(clock, "FINE_NS", chance.choice([1, 20_000_000, 400_000_000]))
        name = chance.choice(["recipe.yaml", "rows/one.txt", "steps.py"])
        text = (stamped.folder / name).read_text().split("# mark")[0]
        before = (stamped.folder / name).stat()
        stamped.write({name: f"{text}# mark {number:03}"})
        if chance.random() < 0.5:
            os.utime(stamped.folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert done(stamped) is None, (number, name)
        time.sleep(chance.choice([0, 0.01, 0.05]))
        path = [*sys.path]
        made = build(stamped.folder / "recipe.yaml")
        late = chance.random() < 0.3
        if late:
            stamped.write({name: f"{text}# mark {number:03}".replace("mark", "MARK")})
        stamp.write_stamp(made, (), ())
        made.store.close()
        forget_plugins(path)
        assert done(stamped) in ((None,) if late else (None, 3)), (number, name)


def blob(t: Project) -> Path:
    """The file behind step b's rows."""
    return (t.folder / "build/t/b/rows-00000.jsonl").resolve()


def same_bytes_twice(t: Project) -> None:
    """Write a file's own content into it: its bytes are as before, its time isn't."""
    (t.folder / "recipe.yaml").write_bytes((t.folder / "recipe.yaml").read_bytes())


def lead_to(link: Path, step: str) -> None:
    """Make a link under `build/` lead to another step's output."""
    text = os.readlink(link.with_name(step))
    link.unlink()
    link.symlink_to(text)


def overwrite(path: Path) -> None:
    """Write something else into a file that is read-only."""
    path.chmod(0o644)
    path.write_text("{}")


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
    "a view's manifest": lambda t: overwrite((t.folder / "build/t/b").resolve() / "manifest.json"),
    "a file in a view": lambda t: ((t.folder / "build/t/b").resolve() / "more").write_text("x"),
    "a link in a folder": lambda t: ((t.folder / "build/t/files").resolve() / "sub/x").unlink(),
    "a link under build": lambda t: (t.folder / "build/t/b").unlink(),
    "a link under build that leads elsewhere": lambda t: lead_to(t.folder / "build/t/b", "a"),
    "the build folder": lambda t: shutil.rmtree(t.folder / "build"),
    "the store": lambda t: (t.folder / ".finery/finery.db").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_takes_the_long_road(stamped: Project, change: str) -> None:
    CHANGES[change](stamped)
    assert done(stamped) is None


def test_other_arguments_take_the_long_road(stamped: Project) -> None:
    recipe = stamped.folder / "recipe.yaml"
    assert stamp.finished_if_done(recipe, ["a"], ()) is None
    assert stamp.finished_if_done(recipe, (), ["data.b.tag=1"]) is None


def test_what_is_installed_takes_the_long_road(
    stamped: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "more")])
    assert done(stamped) is None


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "FINERY_AUTO_DTYPE"])
def test_another_gpu_or_dtype_takes_the_long_road(
    stamped: Project, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """It may be in keys as a fact of the machine."""
    monkeypatch.setenv(variable, "fp32")
    assert done(stamped) is None


def test_a_program_that_appears_or_another_path_takes_the_long_road(
    stamped: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step says where it looks for programs that are facts in its key."""
    monkeypatch.setattr(Step, "cache_key", lambda step: Key(watched=[f"{tmp_path}/tool"]))
    keep(stamped)
    assert done(stamped) == 3
    (tmp_path / "tool").write_text("")
    assert done(stamped) is None
    keep(stamped)
    assert done(stamped) == 3
    monkeypatch.setenv("PATH", str(tmp_path))
    assert done(stamped) is None


def test_another_machine_takes_the_long_road(
    stamped: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stamp, "DRIVER_FILES", ("/",))
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


NEW, GONE = "(rows / 'two.txt').write_text('two')", "(rows / 'one.txt').unlink()"


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("rows/*.txt", NEW), ("rows/*.txt", GONE), ("rows", NEW), ("rows", GONE),
        ("rows/one.txt", GONE),
    ],
)  # fmt: skip
def test_files_that_come_or_go_while_a_build_runs_are_not_stamped(
    stamped: Project, path: str, change: str
) -> None:
    """The step that reads them has been looked up by then."""
    stamped.edit("recipe.yaml", '"rows/*.txt"', f'"{path}"')
    keep(stamped)
    assert done(stamped) == 3
    code = f"rows = __import__('pathlib').Path('{stamped.folder}/rows'); {change}"
    stamped.edit(
        "recipe.yaml", "(job.out / 'sub').mkdir();", f"{code}\\n(job.out / 'sub').mkdir();"
    )
    keep(stamped)
    assert done(stamped) is None


def test_a_recipe_that_changes_while_it_is_checked_is_not_stamped(
    stamped: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been read by then."""
    recipe = stamped.folder / "recipe.yaml"

    def opened(*arguments: Any) -> Graph:
        graph = open_graph(*arguments)
        stamped.edit("recipe.yaml", "rows: a}", "rows: a, tag: 7}")
        time.sleep(0.05)  # more than FINE_NS
        return graph

    monkeypatch.setattr(project_of, "open_graph", opened)
    monkeypatch.setattr(local, "LocalExecutor", lambda jobs: InProcess())
    same_bytes_twice(stamped)
    time.sleep(0.05)
    path = [*sys.path]
    flags = {"keep_going": False, "update_lock": False}
    made = command._build_of(recipe, (), (), "local", None, (), {}, **flags)
    assert not made.run().errors
    stamp.write_stamp(made, (), ())
    made.store.close()
    forget_plugins(path)
    assert done(stamped) is None


def test_what_a_step_did_to_its_inputs_is_not_stamped(stamped: Project) -> None:
    code = "p = step.rows[0].file('rows-00000.jsonl'); p.chmod(0o644); p.write_text('{}')"
    step = f'rows: a}}\n  evil: {{use: steps.script, rows: b, code: "{code}"}}'
    stamped.edit("recipe.yaml", "rows: a}", step)
    ran = stamped.run("build")
    assert ran.code == 1
    assert "its input 'b' was changed while it ran" in ran.err
    assert done(stamped) is None


def test_the_command_uses_it(project: MakeProject) -> None:
    t = project({"recipe.yaml": RECIPE, "rows/one.txt": "one\n"})
    time.sleep(0.3)  # until a file can't change again without its time showing it
    t.run("build")
    same_bytes_twice(t)
    took_the_long_road = t.run("build").err
    quick = t.run("build").err
    assert "3 steps, nothing to do" in quick
    assert "(" in took_the_long_road
    assert "(" not in quick
    t.edit("rows/one.txt", "one", "two")
    assert "2 built" in t.run("build").err


def settled(t: Project) -> None:
    """Build until the stamp tells that there is nothing to do."""
    t.run("build")
    for _ in range(10):
        time.sleep(0.3)  # until a file can't change again without its time showing it
        t.run("build")
        if "(" not in t.run("build").err:
            return
    pytest.fail("no build tells by its stamp that there is nothing to do")


PATH = "import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))\n"


@pytest.mark.parametrize("helper", ["helper.py", "helper/__init__.py"])
def test_it_sees_what_plugin_files_import(project: MakeProject, helper: str) -> None:
    code = f"{PATH}try: import helper\nexcept ImportError: pass\n"
    t = project({"recipe.yaml": RECIPE, "rows/one.txt": "one\n"})
    t.write({"steps.py": code + (t.folder / "steps.py").read_text()})
    settled(t)
    t.write({helper: "import sys\nsys.probe = 1\n"})
    assert t.ran() == ["a", "b", "files"]
    settled(t)
    t.write({helper: "import sys\nsys.probe = 2\n"})
    assert t.ran() == ["a", "b", "files"]


@pytest.mark.parametrize(("name", "steps"), [("finery_worker_environment", None), ("other", 3)])
def test_there_is_none_while_a_plugin_sets_variables(
    stamping: MakeProject, name: str, steps: int | None
) -> None:
    hook = f"\n\n@hookimpl(optionalhook=True)\ndef {name}(use, alone):\n    return {{}}\n"
    t = stamping({"recipe.yaml": RECIPE, "rows/one.txt": "one\n"})
    t.write({"steps.py": (t.folder / "steps.py").read_text() + hook})
    keep(t)
    assert done(t) == steps


@pytest.mark.parametrize("change", [n for n in CHANGES if "view" in n or "link" in n])
def test_what_is_spoiled_under_build_is_mended_when_something_else_changed(
    project: MakeProject, change: str
) -> None:
    more = RECIPE + "evaluate: {c: {use: steps.score, rows: b, score: 0.5}}\n"
    t = project({"recipe.yaml": more, "rows/one.txt": "one\n"})
    settled(t)
    before = contents(t.folder / "build/t")
    CHANGES[change](t)
    t.edit("recipe.yaml", "score: 0.5", "score: 0.6")
    assert t.ran() == ["c"]
    after = contents(t.folder / "build/t")
    assert {k: v for k, v in after.items() if k[0] != "c"} == {
        k: v for k, v in before.items() if k[0] != "c"
    }


def contents(folder: Path) -> dict[tuple[str, ...], bytes]:
    """All files below a folder, through links."""
    return {
        Path(top, name).relative_to(folder).parts: Path(top, name).read_bytes()
        for top, _, names in os.walk(folder, followlinks=True)
        for name in names
    }
