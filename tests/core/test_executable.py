"""The executable bit of a bundle's files: in the store, in copies, and on other machines."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import LIGHT_STEPS, Project

SCRIPT = "#!/bin/sh\necho ran\n"
RECIPE = f"""\
finery: 1
plugins: [steps.py]
name: t
export:
  tool:
    use: steps.pack
    code: |
      for name, mode in {{"run.sh": 0o755, "same.sh": 0o644, "notes.txt": 0o644}}.items():
          text = "notes" if name == "notes.txt" else {SCRIPT!r}
          (job.out / name).write_text(text)
          (job.out / name).chmod(mode)
  copy:
    use: steps.pack
    code: (job.out / "plain.sh").write_text({SCRIPT!r})
"""


def project(folder: Path) -> Project:
    (folder / ".git").mkdir(parents=True)
    made = Project(folder)
    made.write({"recipe.yaml": RECIPE, "steps.py": LIGHT_STEPS.read_text()})
    return made


def digest(t: Project) -> str:
    return str(json.loads((t.folder / "build/t/tool/manifest.json").read_text())["digest"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = project(tmp_path_factory.mktemp("built") / "p")
    ran = made.run("build", "tool")
    assert ran.code == 0, ran
    ran = made.run("build")  # the other step writes the same content as a file that isn't
    assert ran.code == 0, ran
    return made


def output_of(script: Path) -> str:
    return subprocess.run([script], capture_output=True, text=True, check=True).stdout


def test_a_script_runs_where_build_links_to_it(built: Project) -> None:
    folder = built.folder / "build/t/tool"
    assert output_of(folder / "run.sh") == "ran\n"
    assert not os.stat(folder / "notes.txt").st_mode & 0o111
    assert os.stat(folder / "run.sh").st_mode & 0o222 == 0


def test_a_copy_has_the_modes_that_the_step_gave(built: Project) -> None:
    assert built.run("export", "tool", "out").code == 0
    assert output_of(built.folder / "out/run.sh") == "ran\n"
    for name in ("same.sh", "notes.txt"):
        assert not os.stat(built.folder / "out" / name).st_mode & 0o111
    assert built.run("export", "copy", "plain").code == 0
    assert not os.stat(built.folder / "plain/plain.sh").st_mode & 0o111


def test_an_imported_build_has_it(built: Project, tmp_path: Path) -> None:
    assert built.run("export", "--bundle", str(tmp_path / "t.tar")).code == 0
    other = project(tmp_path / "other")
    assert other.run("import", str(tmp_path / "t.tar")).code == 0
    assert other.ran() == []
    assert output_of(other.folder / "build/t/tool/run.sh") == "ran\n"
    assert digest(built) == digest(other)


def test_a_shared_store_keeps_it(tmp_path: Path) -> None:
    first, second = project(tmp_path / "a"), project(tmp_path / "b")
    first.env["FINERY_REMOTE"] = second.env["FINERY_REMOTE"] = f"file://{tmp_path}/shared"
    assert first.run("build", "--push").code == 0
    assert second.ran() == []
    assert second.run("export", "tool", "out").code == 0
    assert output_of(second.folder / "out/run.sh") == "ran\n"
    assert output_of(second.folder / "build/t/tool/run.sh") == "ran\n"


def test_a_mode_is_part_of_what_a_step_made(built: Project, tmp_path: Path) -> None:
    other = project(tmp_path / "other")
    other.edit("recipe.yaml", '"same.sh": 0o644', '"same.sh": 0o755')
    assert other.run("build", "tool").code == 0
    assert digest(built) != digest(other)
