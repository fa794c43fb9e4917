"""Packages of engines in keys: llguidance counts where answers may have to follow a schema."""

import json
from pathlib import Path

import pytest
from conftest import MakeProject, Project
from tiny_gguf import write_tiny_gguf

from finery import Dataset, File, Model
from finery_eval.steps.structured import Json
from finery_trl.steps import Sft

RECIPE = """\
finery: 1
name: t
models:
  tiny: {use: local.model, path: tiny.gguf}
data:
  rows: {use: data.file, path: rows.jsonl, format: completion}
generate:
  texts: {use: synth.answer, model: tiny, rows: rows}
  objects: {use: synth.answer, model: tiny, rows: rows, checks: {schema: {type: object}}}
  scored:
    use: synth.answer
    model: tiny
    rows: rows
    judge: tiny
    checks: {judge: {rubric: Good.}}
evaluate:
  exact: {use: eval.exact, models: tiny, rows: rows}
  free: {use: eval.json, models: tiny, rows: rows, schema: schema.json}
  held: {use: eval.json, models: tiny, rows: rows, schema: schema.json, constrain: true}
  judged: {use: eval.judge, models: tiny, judge: tiny, rubric: Good., rows: rows}
  served: {use: serve.check, models: tiny, rows: rows, judge: {use: eval.exact}}
  served_judged:
    use: serve.check
    models: tiny
    rows: rows
    judge: {use: eval.judge, judge: tiny, rubric: Good.}
"""
ASK = [
    "texts", "objects", "scored", "exact", "free", "held", "judged", "served", "served_judged",
]  # fmt: skip
HOLD = {"objects", "scored", "held", "judged", "served_judged"}


@pytest.fixture
def asking(project: MakeProject) -> Project:
    made = project({
        "recipe.yaml": RECIPE,
        "rows.jsonl": json.dumps({"prompt": "a", "completion": '{"b": 1}'}) + "\n",
        "schema.json": json.dumps({"type": "object"}),
    })  # fmt: skip
    write_tiny_gguf(made.folder / "tiny.gguf")
    made.run("build", "tiny", "rows")
    return made


def keys(made: Project) -> dict[str, str]:
    """Step → its key."""
    plan = map(json.loads, made.run("plan", "--json").out.splitlines())
    return {step["step"]: step["key"] for step in plan if step["step"] in ASK}


@pytest.mark.slow
@pytest.mark.quick
def test_llguidance_counts_where_answers_may_have_to_follow_a_schema(asking: Project) -> None:
    before = keys(asking)
    asking.write({"here/llguidance-99.0.dist-info/METADATA": ""})
    asking.env["PYTHONPATH"] = str(asking.folder / "here")
    after = keys(asking)
    assert {step for step in ASK if before[step] != after[step]} == HOLD


def test_so_it_does_in_trainings_that_watch_such_answers() -> None:
    model, rows = Model.placeholder("model"), Dataset.placeholder("rows")
    schema = File(["schema.json"], [Path("schema.json")])
    for constrain in (True, False):
        watch = Json(models=[model], rows=rows, schema=schema, constrain=constrain)
        training = Sft(model=model, rows=[rows], watch=watch)
        assert ("llguidance" in training.cache_key().packages) == constrain
