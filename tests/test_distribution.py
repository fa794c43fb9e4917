"""What is published: it builds, its metadata is whole, and it works where nothing else is."""

import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from blake3 import blake3
from tools.definitions.sources import TABLE

from finery.cli.commands.plugin import KINDS

ROOT = Path(__file__).parent.parent
REPOSITORY = "https://forge.invalid/o/finery"

pytestmark = pytest.mark.slow


def _run(*command: str | Path, cwd: Path, **variables: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    ran = subprocess.run(command, cwd=cwd, env=clean | variables, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built of it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), "."]
    _run(*build, cwd=ROOT, FINERY_REPOSITORY=REPOSITORY)
    return folder


def test_links_and_addresses_work_without_the_repository(dist: Path) -> None:
    (wheel,) = dist.glob("finery-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(name).decode()
    head, _, text = metadata.partition("\n\n")
    assert "\nLicense-Expression: Apache-2.0\n" in head
    assert f"\nProject-URL: Source, {REPOSITORY}\n" in head
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    for target in targets:
        assert target.startswith("https://"), target
        path = re.sub(rf"{REPOSITORY}/(blob|raw)/v[\d.]+/", "", target).partition("#")[0]
        assert "://" in path or (ROOT / path).exists(), target
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert all("/raw/" in image for image in images)


def test_the_wheel_has_the_files_of_the_table_of_definitions(dist: Path) -> None:
    """Else all of finery's code would be in every key."""
    (wheel,) = dist.glob("finery-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {
            name: blake3(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if ".dist-info/" not in name and name != TABLE
        }
        table = json.loads(archive.read(TABLE))
    assert files == table["files"]


@pytest.fixture(scope="module")
def clean(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with finery."""
    folder, (wheel,) = tmp_path_factory.mktemp("clean"), dist.glob("finery-*.whl")
    _run(sys.executable, "-m", "venv", "clean", cwd=folder)
    _run(folder / "clean/bin/python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return folder / "clean" / "bin"


def test_the_wheel_works_in_a_clean_environment(clean: Path, tmp_path: Path) -> None:
    assert "finery build" in _run(clean / "finery", "init", "example", cwd=tmp_path)
    assert " steps: " in _run(clean / "finery", "plan", "example", cwd=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_plugin_passes_what_its_ci_runs(clean: Path, tmp_path: Path, kind: str) -> None:
    _run(clean / "finery", "plugin", "new", f"a_{kind}", "here", "--kind", kind, cwd=tmp_path)
    package = tmp_path / "here"
    ci = yaml.safe_load((package / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    commands = [step["run"] for step in ci["jobs"]["test"]["steps"] if "run" in step]
    assert len(commands) == 4
    for command in commands:
        python, *arguments = shlex.split(command)
        assert python == "python"
        _run(clean / "python", *arguments, cwd=package)
    tidy = ("ruff", "check", "--no-cache", "--select", "E,F,I,UP,B,SIM,RUF,PT,RET,C4,PIE,PERF")
    _run(sys.executable, "-m", *tidy, "src", "tests", cwd=package)
    _run(
        sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "src", "tests", cwd=package
    )
    _run(clean / "python", "-m", "pip", "uninstall", "--yes", f"finery-a-{kind}", cwd=package)
