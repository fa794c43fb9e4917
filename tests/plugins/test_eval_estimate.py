"""What `finery plan` says about test rows."""

import json
from pathlib import Path

import pytest
from conftest import MakeProject

from finery import Estimate
from finery.builder.checks import notes_on
from finery.builder.project import open_graph
from finery.plugin.history import Results
from finery_eval.planning import estimates

RECIPE = """\
finery: 1
name: t
models:
  a: {use: openai.model, model: one}
  b: {use: openai.model, model: two}
data:
  rows: {use: data.file, path: rows.jsonl, format: alpaca}
evaluate:
  test: {use: eval.exact, models: [MODELS], rows: rows}
"""


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("a, b", "can detect differences of 12 points"),
        ("a", "give a score to within 9 points"),
    ],
)
def test_a_plan_says_what_the_test_rows_can_show(
    project: MakeProject, models: str, words: str
) -> None:
    rows = "".join(json.dumps({"instruction": f"{i}", "output": "x"}) + "\n" for i in range(128))
    t = project({"recipe.yaml": RECIPE.replace("MODELS", models), "rows.jsonl": rows})
    out = " ".join(t.run("plan").out.split())
    assert f"128 rows {words}" in out
    lines = [json.loads(line) for line in t.run("plan", "--json").out.splitlines()]
    (estimate,) = (line["estimate"] for line in lines if line["step"] == "test")
    assert estimate["detectable_difference"] == pytest.approx(0.123, abs=0.001)


SIZED = """\
finery: 1
name: t
models:
  base: {use: local.wheel, package: p, version: "1", file: NAME.gguf}
  linear: {use: baseline.linear, rows: split.train}
data:
  rows: {use: data.file, path: rows.jsonl, format: alpaca}
  split: {use: data.split, rows: rows}
train:
  sft: {use: trl.sft, model: base, rows: split.train}
evaluate:
  test: {use: eval.exact, models: [MODELS], rows: split.test}
"""


def test_a_first_evaluation_has_a_rough_time(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"instruction": f"{i}", "output": "x"}) + "\n" for i in range(1000))
    (tmp_path / "rows.jsonl").write_text(rows)

    def estimate(models: str, name: str) -> Estimate:
        recipe = SIZED.replace("MODELS", models).replace("NAME", name)
        (tmp_path / "recipe.yaml").write_text(recipe)
        graph = open_graph(tmp_path / "recipe.yaml")
        return estimates(graph, Results(), ["test"])[0]

    one, two = estimate("base, linear", "x-4B"), estimate("base, sft", "x-4B")
    assert one.lines[1].endswith("(a rough guess before the first run)")
    assert two.facts["seconds"] == pytest.approx(2 * one.facts["seconds"], abs=1)
    assert one.facts["seconds"] > estimate("base", "x-135M").facts["seconds"]
    assert "seconds" not in estimate("base", "x").facts


TRAINED = """\
finery: 1
name: t
models:
  base: {use: local.model, path: models/x}
  linear: {use: baseline.linear, rows: split.train}
data:
  rows: {use: data.file, path: rows.jsonl, format: alpaca}
  split: {use: data.split, rows: rows}
train:
  sft: {use: trl.sft, model: base, rows: split.train}
evaluate:
  test: {use: eval.classification, models: [MODELS], rows: split.test}
"""


@pytest.mark.parametrize(
    ("models", "notes"), [("base, sft", 1), ("base, sft, linear", 0), ("base", 0)]
)
def test_a_classifier_without_a_cheap_baseline_gets_a_note(
    tmp_path: Path, models: str, notes: int
) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "recipe.yaml").write_text(TRAINED.replace("MODELS", models))
    graph = open_graph(tmp_path / "recipe.yaml")
    found = [note for note in notes_on(graph, Results()) if note.name == "no-cheap-baseline"]
    assert len(found) == notes
    for note in found:
        assert note.text == "test compares sft with no cheap baseline"
        assert "linear: {use: baseline.linear, rows: split.train}" in note.fix
