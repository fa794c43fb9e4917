"""Steps in environments of their own: resolved, locked, made, and what reruns when they change."""

import fcntl
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import pytest
from conftest import MakeProject, Project, until
from installing import CORE, add_core_wheels
from msgspec.structs import replace
from tasks import Tasks

from finery import StepError
from finery.execute import venv
from finery.execute.worker import run_task
from finery.recipe.environments import Environment

STEPS = '''
from finery import Dataset, Job, Step, hookimpl, setting


class Ask(Step, seeded=False, packages=("toy",)):
    """The version of toy, and the Python that has it."""

    tag: int = setting(0, help="Distinguishes steps.")

    def run(self, job: Job) -> Dataset:
        import os
        import shutil
        import sys

        import toy

        facts = {"prefix": sys.prefix, "pip": shutil.which("toy"), "env": os.environ.get("SECRET")}
        return Dataset.write(job.out, [{"prompt": toy.VERSION, **facts}])


@hookimpl
def finery_steps():
    return {"toy.ask": "steps:Ask"}
'''
RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
environments:
  old: {packages: [toy==1.0], for: [data]}
  new: {packages: [toy>=1.5]}
data:
  a: {use: toy.ask}
  b: {use: toy.ask, environment: new, tag: 2}
"""


def add_toy(folder: Path, version: str, needs: str = "") -> None:
    """Add a wheel of a package `toy` with a program of that name. needs: another package."""
    metadata = f"toy-{version}.dist-info"
    described = f"Metadata-Version: 2.1\nName: toy\nVersion: {version}\n"
    files = {
        "toy.py": f"VERSION = {version!r}\n",
        f"{metadata}/METADATA": described + (f"Requires-Dist: {needs}\n" if needs else ""),
        f"{metadata}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{metadata}/entry_points.txt": "[console_scripts]\ntoy = toy:main\n",
    }
    with ZipFile(folder / f"toy-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{metadata}/RECORD", "".join(f"{name},,\n" for name in files))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two versions of `toy`, and with what finery needs, as it is installed here."""
    folder = tmp_path_factory.mktemp("wheels")
    add_core_wheels(folder)
    for version in ("1.0", "2.0"):
        add_toy(folder, version)
    return folder


@pytest.fixture
def toys(project: MakeProject, wheels: Path) -> Project:
    """A project with two steps that need different versions of `toy`."""
    return project({
        "steps.py": STEPS, "recipe.yaml": RECIPE, "finery.toml": f"wheels = '{wheels}'\n",
    })  # fmt: skip


def facts(toys: Project) -> dict[str, str]:
    """Step → the version of `toy` that it had."""
    return {step: toys.rows(step)[0]["prompt"] for step in "ab"}


def folders(toys: Project) -> list[Path]:
    return [path for path in (toys.folder / ".finery/environments").glob("*") if path.is_dir()]


@pytest.mark.slow
@pytest.mark.quick
def test_a_command_may_run_in_an_environment_with_what_the_recipe_requires(
    toys: Project,
) -> None:
    head, data = "finery: 1\nname: t\nplugins: [./steps.py]\n", "data:\n  a: {use: toy.ask}\n"
    toys.write({"recipe.yaml": f"{head}requires: ['toy>=1.5']\n{data}"})
    refused = toys.run("plan")
    assert refused.code == 2
    assert "FINERY_PROVISION=1 to run in an environment with it" in refused.err
    toys.env["FINERY_PROVISION"] = "1"
    built = toys.run("build")
    assert built.code == 0, built.err
    assert "making the environment requires" in built.err
    (row,) = toys.rows("a")
    assert row["prompt"] == "2.0"
    assert Path(row["prefix"]).parent == toys.folder / ".finery/environments"
    again = toys.run("build")
    assert "nothing to do" in again.out + again.err
    assert "making the environment" not in again.err
    toys.write({"recipe.yaml": f"{head}requires: ['toy>=9']\n{data}"})
    impossible = toys.run("build")
    assert impossible.code != 0
    assert "environment 'requires' can't be resolved" in impossible.err
    assert "Traceback" not in impossible.err


@pytest.mark.slow
@pytest.mark.quick
def test_steps_of_one_recipe_have_different_versions(toys: Project, wheels: Path) -> None:
    assert "isn't resolved in recipe.lock yet" in (plan := toys.run("plan").out)
    assert "environment new: will be resolved and made" in plan
    built = toys.run("build")
    needed = len(CORE) - (sys.version_info >= (3, 13))  # typing-extensions only before
    assert f"making the environment old: {needed + 1} packages" in built.err
    assert facts(toys) == {"a": "1.0", "b": "2.0"}
    (row,) = toys.rows("b")
    assert Path(row["prefix"]) in folders(toys)
    assert row["pip"] == f"{row['prefix']}/bin/toy"  # its programs come first
    assert "nothing to do" in toys.run("build").err

    # A new release changes nothing, until the lock is updated: only what got it reruns.
    add_toy(wheels, "2.1")
    try:
        (toys.folder / "recipe.yaml").touch()
        assert toys.ran() == []
        assert toys.ran("--update-lock") == ["b"]
        assert facts(toys) == {"a": "1.0", "b": "2.1"}
        assert "package toy  2.0 → 2.1" in toys.run("explain", "b").out
    finally:
        (wheels / "toy-2.1-py3-none-any.whl").unlink()

    # Nor does what is installed here.
    (toys.folder / "here/toy-9.0.dist-info").mkdir(parents=True)
    toys.env["PYTHONPATH"] = str(toys.folder / "here")
    assert toys.ran() == []
    assert "package toy: 1.0 → 9.0" in toys.run("plan", "--set", "data.a.environment=null").out

    # A change of one declaration reruns its steps, unless it is resolved to the same.
    toys.edit("recipe.yaml", "toy==1.0", "toy<1.5")
    assert toys.ran() == []
    toys.edit("recipe.yaml", "toy<1.5", "toy==2.0")
    assert toys.ran() == ["a"]

    # Without a network and wheels, what is made works on, and what is locked isn't resolved again.
    (toys.folder / "finery.toml").unlink()
    toys.env |= {"UV_OFFLINE": "1", "UV_NO_CACHE": "1"}
    toys.edit("recipe.yaml", "a: {use: toy.ask", "a: {tag: 1, use: toy.ask")
    assert toys.ran() == ["a"]

    # What no lock names is removed, unless a process uses it.
    recipe, root = toys.folder / "recipe.yaml", toys.folder / ".finery"
    assert len(folders(toys)) == 3
    (unused,) = venv.unused_environments([recipe], root)
    with (unused.with_suffix(".lock")).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        assert not venv.remove_environment(unused)
    assert venv.remove_environment(unused)
    assert {*folders(toys)} == venv.environments_in_use([recipe], root)


@pytest.mark.slow
def test_pip_makes_the_same_environments_without_uv(
    toys: Project, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venv, "find_uv", lambda: None)
    environment = venv.resolve_environment("old", ["toy<2"], None, str(wheels))
    assert "toy==1.0" in environment.requirements
    assert environment.versions["toy"] == "1.0"
    store, events = toys.folder / "store", list[dict[str, str]]()
    folder = venv.environment_folder(environment, store)
    folder.parent.mkdir(parents=True)
    with folder.with_suffix(".lock").open("w") as lock, ThreadPoolExecutor() as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        making = pool.submit(venv.ensure, environment, store, events.append)
        until(lambda: events)
        fcntl.flock(lock, fcntl.LOCK_UN)
        python = making.result()
    assert events[0]["message"] == "waiting for another process that makes 'old'"
    assert venv.is_environment_complete(environment, store)
    assert not python.with_name("pip").exists()
    with pytest.raises(StepError, match=r"'old' can't be resolved: .*toy==3"):
        venv.resolve_environment("old", ["toy==3"], None, str(wheels))
    with pytest.raises(StepError, match=r"Python 3\.99 was not found"):
        venv.resolve_environment("old", ["toy"], "3.99", str(wheels))


@pytest.mark.slow
def test_packages_may_be_excluded_unless_finery_needs_them(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "excluded.txt").write_text("absent\n", encoding="utf-8")
    monkeypatch.setenv("UV_EXCLUDE", str(tmp_path / "excluded.txt"))
    add_toy(wheels, "1.1", needs="absent")
    try:
        environment = venv.resolve_environment("old", ["toy==1.1"], None, str(wheels))
        venv.ensure(environment, tmp_path)
        kept = [each for each in environment.requirements if not each.startswith("rich==")]
        with pytest.raises(StepError, match="doesn't fit this finery") as error:
            venv.ensure(replace(environment, requirements=tuple(kept)), tmp_path)
    finally:
        (wheels / "toy-1.1-py3-none-any.whl").unlink()
    assert ["rich" in line for line in error.value.details] == [True]


@pytest.mark.slow
def test_a_build_that_is_killed_leaves_no_half_of_an_environment(toys: Project) -> None:
    toys.run("plan")
    build = toys.start("build", "--step", "a")
    until(lambda: folders(toys) and not (folders(toys)[0] / venv.COMPLETE_MARK).exists())
    os.killpg(build.pid, signal.SIGKILL)
    build.communicate()
    (folder,) = folders(toys)
    assert not (folder / venv.COMPLETE_MARK).exists()
    assert toys.ran("--step", "a") == ["a"]
    assert (folder / venv.COMPLETE_MARK).exists()


@pytest.mark.slow
def test_errors_name_the_line_of_the_recipe(toys: Project) -> None:
    toys.edit("recipe.yaml", "toy>=1.5", "toy==3.0")
    broken = toys.run("build", "--keep-going")
    assert broken.code == 2
    assert "recipe.yaml:7:20: error: environment 'new' can't be resolved" in broken.err
    assert "toy==3.0" in broken.err
    assert toys.rows("a")[0]["prompt"] == "1.0"
    toys.edit("recipe.yaml", "toy==3.0", "toy==2.0")
    toys.edit("recipe.lock", "  toy==1.0", "  toy==1.7")
    broken = toys.run("build", "--keep-going")
    assert broken.code == 1
    assert "environment 'old' can't be made: Because there is no version of toy==1.7" in broken.err
    assert toys.rows("b")[0]["prompt"] == "2.0"
    toys.edit("recipe.yaml", "toy==2.0", "toy>1")
    toys.edit("finery.toml", "wheels", "# ")
    toys.env |= {"HTTPS_PROXY": "http://127.0.0.1:9", "UV_HTTP_RETRIES": "0", "UV_NO_CACHE": "1"}
    broken = toys.run("build")
    assert "fix: connect to a network" in " ".join(broken.err.split())


def test_a_process_outside_an_environment_runs_no_step_that_needs_it(tmp_path: Path) -> None:
    task = Tasks(tmp_path)("")
    task.environment = Environment("old", "3.11", ("toy==1.0",))
    ended = run_task(task, lambda event: None)
    assert ended["event"] == "failed"
    assert "can't run steps in environments such as 'old'" in ended["error"]["what"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("environment: new", "environment: nwe", "there is no environment 'nwe'"),
        ("for: [data]", "for: [dta]", "there is no section or step type 'dta'"),
        ("[toy>=1.5]", "[toy], for: data", "'data' has the environment 'old', too"),
        ("[toy>=1.5]", "[toy=1.5]", "'toy=1.5' is not a package with a version"),
        ("[toy>=1.5]", "[./toy]", "'./toy' is not a package with a version"),
        ("[toy>=1.5]", "[toy], python: 3.12", "python"),
        ("[toy>=1.5]", "toy", "packages"),
    ],
)
def test_mistakes(toys: Project, old: str, new: str, what: str) -> None:
    toys.edit("recipe.yaml", old, new)
    checked = toys.here("check")
    assert checked.code == 2
    assert what in " ".join(checked.err.split())


def test_a_step_has_the_environment_that_is_named_nearest(toys: Project) -> None:
    toys.edit("recipe.yaml", "for: [data]", "for: all")
    toys.edit("recipe.yaml", "[toy>=1.5]", "[toy>=1.5], for: toy.ask")
    toys.edit("recipe.yaml", "environment: new", "environment: old")
    toys.edit(
        "recipe.yaml", "data:\n", "data:\n  c: {use: data.file, path: c.jsonl, environment: null}\n"
    )
    toys.write({"c.jsonl": '{"text": "c"}\n'})
    steps = [json.loads(line) for line in toys.run("plan", "--json").out.splitlines()]
    named = {step["step"]: step["environment"] for step in steps}
    assert named == {"a": "new", "b": "old", "c": None}
