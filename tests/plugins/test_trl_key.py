"""What of this plugin is in the key of a training: what shapes the model, and nothing else."""

import json
from pathlib import Path

import pytest

from finery.builder.code.steps import StepCode
from finery.plugin.manager import load_plugins
from finery.recipe.document import load
from finery.recipe.graph import build_graph
from finery.store.database import Store

RECIPE = """\
finery: 1
models: {base: {use: local.model, path: model}}
data: {rows: {use: data.file, path: rows.jsonl, format: completion}}
train:
  plain: {use: trl.sft, model: base, rows: rows}
  watching: {use: trl.sft, model: base, rows: rows, watch: {use: eval.exact, rows: rows}}
  launched: {use: trl.sft, model: base, rows: rows, launch: {processes: 2}}
  prefers: {use: trl.dpo, model: base, rows: rows}
"""
REPORTS = (
    "advice.py", "estimate/", "preflight.py", "report/", "rows/calls.py", "rows/control.py",
    "rows/coverage.py", "rows/remarks.py", "rows/summary.py", "view/",
)  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> dict[str, set[str]]:
    """Training → the files with code in its key, without those of the evaluator that it watches."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, plugins = load(tmp_path / "recipe.yaml"), load_plugins()
    graph = build_graph(recipe, plugins)
    store = Store(tmp_path / ".finery")
    code = StepCode(recipe, plugins, store)
    keys = {}
    for name, written in recipe.data["train"].items():
        only_imported = {
            f for f, units in code.of_type(written["use"]).units().items() if not units
        }
        keys[name] = set(code.of_step(graph.nodes[name].step, written)) - only_imported
    store.close()
    return keys


def test_what_only_reports_is_in_no_key(files: dict[str, set[str]]) -> None:
    for key in files.values():
        reports = [f for f in key if f.removeprefix("finery_trl/").startswith(REPORTS)]
        assert reports == []


def test_code_that_watches_is_in_the_key_of_trainings_that_watch(
    files: dict[str, set[str]],
) -> None:
    watching = {"finery_trl/train/watch.py", "finery_transformers/engine.py"}
    assert watching <= files["watching"]
    assert watching & files["plain"] == set()


def test_the_launcher_is_in_the_key_of_trainings_in_several_processes(
    files: dict[str, set[str]],
) -> None:
    assert files["launched"] - files["plain"] == {"finery_trl/train/launch.py"}


def test_a_method_is_in_the_key_of_its_own_trainings(files: dict[str, set[str]]) -> None:
    assert files["plain"] - files["prefers"] == {"finery_trl/steps/sft.py"}
    assert "finery_trl/rows/pairs.py" in files["prefers"] - files["plain"]
