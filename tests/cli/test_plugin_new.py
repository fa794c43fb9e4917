"""`finery plugin new`: a package that installs, passes its tests, and whose CI does the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import MakeProject
from installing import install

FILES = {
    "pyproject.toml", "README.md", ".gitignore", ".github/workflows/ci.yml", "tests/test_steps.py",
    "src/finery_shop/__init__.py", "src/finery_shop/steps.py", "src/finery_shop/py.typed",
}  # fmt: skip


def files_in(folder: Path) -> set[str]:
    """The paths of all files in a folder."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_it_writes_a_package_and_says_what_is_next(project: MakeProject) -> None:
    made = project({})
    ran = made.run("plugin", "new", "shop")
    assert ran.code == 0, ran.err
    assert files_in(made.folder / "finery-shop") == FILES
    for line in (
        "finery-shop: pyproject.toml, ", "  cd finery-shop\n", "  finery plugins shop --check\n",
        "Then edit src/finery_shop/steps.py.",
    ):  # fmt: skip
        assert line in ran.out


@pytest.mark.slow
def test_the_package_passes_what_its_ci_runs(project: MakeProject, tmp_path: Path) -> None:
    made = project({})
    assert made.run("plugin", "new", "shop", "here").code == 0
    package = made.folder / "here"
    site = install(package, tmp_path / "installed")
    ci = yaml.safe_load((package / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = ci["jobs"].values()
    installs, *commands = [step["run"] for step in job["steps"] if "run" in step]
    assert installs == "python -m pip install -e '.[test]'"  # as `install` does without a network
    assert len(commands) == 2
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    for command in commands:
        python, *arguments = command.split()
        assert python == "python"
        ran = subprocess.run(
            [sys.executable, *arguments], cwd=package, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTEST_ADDOPTS": "-p no:cacheprovider"},
        )  # fmt: skip
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
    tidy = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "E,F,I,UP,B,RUF", "."]
    assert subprocess.run(tidy, cwd=package, capture_output=True).returncode == 0


@pytest.mark.parametrize(("name", "says"), [
    ("Shop", "fix: use lower-case letters, digits and _, starting with a letter: shop"),
    ("my-shop", "starting with a letter: my_shop"),
    ("class", "'class' is not a valid plugin name"),
    ("../shop", "'../shop' is not a valid plugin name"),
    ("data", "plugin 'data' already exists (finery 0.1.0)"),
])  # fmt: skip
def test_a_name_that_a_plugin_cannot_have_is_refused(
    project: MakeProject, name: str, says: str
) -> None:
    made = project({})
    ran = made.run("plugin", "new", name)
    assert ran.code == 2
    assert says in ran.err
    assert not list(made.folder.glob("finery-*"))


def test_nothing_is_overwritten(project: MakeProject) -> None:
    made = project({"finery-shop/README.md": "mine"})
    ran = made.run("plugin", "new", "shop")
    assert ran.code == 2
    assert "finery-shop already exists\n  fix: choose another folder" in ran.err
    assert files_in(made.folder / "finery-shop") == {"README.md"}
    made.write({"file": ""})
    assert made.run("plugin", "new", "shop", "file").code == 2
