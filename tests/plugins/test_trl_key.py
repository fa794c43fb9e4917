"""What of this plugin is in the key of a training: what shapes the model, and nothing else."""

import json
from pathlib import Path

import pytest

from finery.builder.code.steps import StepCode
from finery.plugin.manager import load_plugins
from finery.recipe.document import load
from finery.recipe.graph import build_graph
from finery.step.inspect import joint_key
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
    "advice.py", "estimate/", "preflight.py", "rows/faults.py", "rows/remarks.py",
    "train/messages.py", "view/",
)  # fmt: skip


Keys = dict[str, set[tuple[str, str]]]
"""Training → (file, definition) of the code in its key."""


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, plugins = load(tmp_path / "recipe.yaml"), load_plugins()
    graph = build_graph(recipe, plugins)
    store = Store(tmp_path / ".finery")
    code = StepCode(recipe, plugins, store)
    keys: Keys = {}
    for name, written in recipe.data["train"].items():
        step = graph.nodes[name].step
        digests = code.of_step(step, written, joint_key(step)).code
        keys[name] = {
            (file, unit.partition(".")[0])
            for file, digest in digests.items()
            for unit in code.names(digest) or ()
        }
    store.close()
    return keys


def files(key: set[tuple[str, str]]) -> set[str]:
    return {file for file, _ in key}


def test_what_only_reports_is_in_no_key(keys: Keys) -> None:
    for key in keys.values():
        reports = [f for f in files(key) if f.removeprefix("finery_trl/").startswith(REPORTS)]
        assert reports == []


def test_code_that_watches_is_in_the_key_of_trainings_that_watch(keys: Keys) -> None:
    watching = {"finery_trl/train/watch.py", "finery_transformers/engine.py"}
    assert watching <= files(keys["watching"])
    assert watching & files(keys["plain"]) == set()


def test_the_launcher_is_in_the_key_of_trainings_in_several_processes(keys: Keys) -> None:
    added = files(keys["launched"]) - files(keys["plain"])
    assert added == {"finery_trl/train/launch.py"}


def test_a_method_is_in_the_key_of_its_own_trainings(keys: Keys) -> None:
    plain, prefers = keys["plain"], keys["prefers"]
    assert ("finery_trl/steps.py", "Sft") in plain - prefers
    assert ("finery_trl/steps.py", "Dpo") in prefers - plain
    assert "finery_trl/rows/pairs.py" in files(prefers) - files(plain)
