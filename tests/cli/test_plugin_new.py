"""`finery plugin new`: a package of each kind, with all that publishing needs."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import MakeProject

from finery.cli.commands.plugin import KINDS

FILES = {
    "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore", "tests/test_steps.py",
    ".github/workflows/release.yml", ".github/workflows/test.yml",
    "example/recipe.yaml", "example/rows.jsonl",
    "src/finery_shop/__init__.py", "src/finery_shop/steps.py", "src/finery_shop/py.typed",
}  # fmt: skip
QUICK = ("::test_it_is_described", "::test_what_it_imports_is_required")
"""The parts of a contract that take no time."""


def files_in(folder: Path) -> set[str]:
    """The paths of all files in a folder."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_it_writes_a_package_and_says_what_is_next(project: MakeProject) -> None:
    made = project({})
    ran = made.run("plugin", "new", "shop")
    assert ran.code == 0, ran.err
    assert files_in(made.folder / "finery-shop") == FILES
    for line in (
        "finery-shop: .github/workflows/release.yml, ", "  cd finery-shop\n",
        "  finery plugins shop --check\n", "  finery build example\n",
        "Then edit src/finery_shop/steps.py.",
    ):  # fmt: skip
        assert line in ran.out


def test_without_a_kind_it_says_which_there_are(project: MakeProject) -> None:
    made = project({})
    ran = made.run("plugin", "new", "shop")
    assert "This is a transform. Other kinds, with --kind:\n  source " in ran.out
    listed = [line.split()[0] for line in ran.out.partition("--kind:\n")[2].splitlines()]
    assert listed == [*KINDS[1:]]
    assert "Other kinds" not in made.run("plugin", "new", "pay", "--kind", "transform").out


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_what_publishing_needs(project: MakeProject, kind: str) -> None:
    made = project({})
    about = ["--author", 'Ada "A." O\'Hara', "--repository", "https://github.com/ada/spans"]
    for options in ([], about):
        folder = f"{kind}{len(options)}"
        ran = made.run("plugin", "new", "spans", folder, "--kind", kind, *options)
        assert ran.code == 0, ran.err
        package = made.folder / folder
        texts = {name: (package / name).read_text("utf-8") for name in files_in(package)}
        project_table = tomllib.loads(texts["pyproject.toml"])["project"]
        assert project_table["keywords"] == ["finery-plugin"]
        assert project_table["dependencies"] == ["finery>=0.1,<0.2"]
        assert project_table["entry-points"]["finery"] == {"spans": "finery_spans [api-1]"}
        addresses = {a for t in texts.values() for a in re.findall(r"https?://[^\s,)\"]+", t)}
        assert addresses - {"https://pypi.org/manage/account/publishing/"} == {*options[3:]}
        assert project_table.get("urls", {}) == ({"Repository": options[3]} if options else {})
        assert [*project_table.get("authors", [])] == ([{"name": options[1]}] if options else [])
        assert ("YOUR NAME" in texts["README.md"]) is not bool(options)
        assert texts["example/recipe.yaml"] in texts["README.md"]
        assert (options[1] if options else "the authors of finery-spans") in texts["LICENSE"]
        assert "## 0.1.0" in texts["CHANGELOG.md"]
        publish = yaml.safe_load(texts[".github/workflows/release.yml"])["jobs"]["publish"]
        assert (publish["environment"], publish["permissions"]) == ("pypi", {"id-token": "write"})
        assert "{=" not in "".join(texts.values())


@pytest.mark.slow
@pytest.mark.quick
def test_each_kind_is_fine_where_all_are_installed(project: MakeProject) -> None:
    """Its own tests and the quick ones of its contracts; test_distribution.py runs the others."""
    made, tests = project({}), []
    paths = [os.environ.get("PYTHONPATH", "")]
    for kind in KINDS:
        name = f"a_{kind}"
        assert made.run("plugin", "new", name, kind, "--kind", kind).code == 0
        package = made.folder / kind
        described = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))["project"]
        info = f"{kind}/src/{described['name'].replace('-', '_')}-0.1.0.dist-info"
        (entry,) = described["entry-points"]["finery"].items()
        made.write({
            f"{info}/METADATA": f"Name: {described['name']}\nVersion: 0.1.0\n"
            f"Requires-Dist: {described['dependencies'][0]}\n",
            f"{info}/entry_points.txt": f"[finery]\n{entry[0]} = {entry[1]}\n",
        })  # fmt: skip
        (module,) = (package / "tests").glob("test_*.py")
        module = module.rename(module.with_name(f"test_{kind}.py"))
        parts = re.findall(r"^(?:def|class) (test_\w+|Test\w+)", module.read_text("utf-8"), re.M)
        for part in parts:
            tests += [f"{module}::{part}{test}" for test in (QUICK if part[0] == "T" else ("",))]
        paths.append(str(package / "src"))
    made.env["PYTHONPATH"] = os.pathsep.join(paths)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        cwd=made.folder, capture_output=True, text=True, env={**os.environ, **made.env},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(("options", "says"), [
    (["--kind", "trainr"], "--kind: error: there is no kind 'trainr' of plugin\n  transform  "),
    (["--kind", "trainr"], "fix: did you mean 'trainer'?"),
    (["--kind", "x"], "fix: one of: engine, evaluator, executor, "),
    (["--author", "a\nb"], "--author: error: the name has control characters"),
    (["--repository", "github.com/ada/x"], "fix: write all of it, e.g. https://github.com/"),
])  # fmt: skip
def test_wrong_options_are_refused(project: MakeProject, options: list[str], says: str) -> None:
    made = project({})
    ran = made.run("plugin", "new", "shop", *options)
    assert ran.code == 2
    assert says in ran.err
    assert not (made.folder / "finery-shop").exists()


@pytest.mark.parametrize(("name", "says"), [
    ("Shop", "fix: use lower-case letters, digits and _, starting with a letter: shop"),
    ("my-shop", "starting with a letter: my_shop"),
    ("shop_", "'shop_' is not a valid plugin name"),
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
    assert "finery-shop isn't empty\n  fix: choose another folder" in ran.err
    assert files_in(made.folder / "finery-shop") == {"README.md"}
    made.write({"file": ""})
    assert made.run("plugin", "new", "shop", "file").code == 2


def test_a_new_repository_is_filled(project: MakeProject) -> None:
    made = project({"here/.git/HEAD": "ref: refs/heads/main\n"})
    ran = made.run("plugin", "new", "shop", "here")
    assert ran.code == 0, ran.err
    assert files_in(made.folder / "here") == {*FILES, ".git/HEAD"}
