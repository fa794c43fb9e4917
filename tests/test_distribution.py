"""What is published: it builds, its metadata is whole, and it works where nothing else is."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from blake3 import blake3
from tools.definitions.sources import TABLE

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


def test_the_wheel_works_in_a_clean_environment(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("finery-*.whl")
    _run(sys.executable, "-m", "venv", "clean", cwd=tmp_path)
    programs = tmp_path / "clean" / "bin"
    _run(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    assert "finery build" in _run(programs / "finery", "init", "example", cwd=tmp_path)
    assert " steps: " in _run(programs / "finery", "plan", "example", cwd=tmp_path)
