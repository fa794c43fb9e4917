"""Steps in environments of their own: resolved, locked, made, and what reruns when they change."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import yaml
from conftest import MakeProject, Project, running, until

from finery.execute import venv
from finery.execute.wheels import as_requirement
from finery.util.installed import distributions

STEPS = '''
from finery import Dataset, Job, Step, hookimpl, setting


class Ask(Step, seeded=False, packages=("toy",)):
    """The version of toy."""

    tag: int = setting(0, help="Put into the row.")

    def run(self, job: Job) -> Dataset:
        import sys

        import toy

        return Dataset.write(job.out, [{"prompt": toy.VERSION, "prefix": sys.prefix}])


@hookimpl
def finery_steps():
    return {"toy.ask": "steps:Ask"}
'''
CORE = (
    "attrs", "blake3", "click", "jinja2", "jsonschema", "jsonschema-specifications",
    "markdown-it-py", "markupsafe", "mdurl", "msgspec", "pluggy", "pygments", "pyyaml",
    "referencing", "rensa", "rich", "rpds-py", "typing-extensions",
)  # fmt: skip
"""What finery needs, without its extras."""
RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
environments:
  old: {packages: [toy==1.0], for: [data]}
  new: {packages: [toy==2.0]}
data:
  a: {use: toy.ask}
  b: {use: toy.ask, environment: new}
"""


def toy(folder: Path, version: str) -> None:
    """A wheel of a package `toy`."""
    metadata = f"toy-{version}.dist-info"
    with ZipFile(folder / f"toy-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy.py", f"VERSION = '{version}'\n")
        wheel.writestr(f"{metadata}/METADATA", f"Metadata-Version: 2.1\nName: toy\nVersion: {version}\n")
        wheel.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{metadata}/RECORD", "")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two versions of `toy`, and all that finery needs, as it is installed here."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in CORE:
        as_requirement(distributions()[name], folder)
    for version in ("1.0", "2.0"):
        toy(folder, version)
    return folder


@pytest.fixture
def toys(project: MakeProject, wheels: Path) -> Project:
    """A project with two steps that need different versions of `toy`."""
    return project({"steps.py": STEPS, "recipe.yaml": RECIPE, "finery.toml": f"wheels = '{wheels}'"})


def versions(toys: Project) -> list[str]:
    return [toys.rows(step)[0]["prompt"] for step in "ab"]


def test_steps_of_one_recipe_have_different_versions(toys: Project) -> None:
    assert "isn't resolved in recipe.lock yet" in toys.run("plan").out
    r = toys.run("build")
    print(r.err, r.out)
    print((toys.folder/"recipe.lock").read_text())
    assert r.code == 0
    assert versions(toys) == ["1.0", "2.0"]
