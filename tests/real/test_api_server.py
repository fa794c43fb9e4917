"""A real OpenAI-compatible server, `transformers serve`, asked through the openai library."""

import json

import pytest
from conftest import MakeProject

ROWS = [
    {"prompt": "What is the capital of France?", "completion": "Paris"},
    {"prompt": "What is the capital of Japan?", "completion": "Tokyo"},
]
RECIPE = """
finery: 1
name: t
models:
  served: {use: openai.model, model: "%(model)s", base_url: "%(url)s/v1", api_key: null}
  brief: {use: prompt.model, model: served, system: Answer in one sentence.}
data:
  rows: {use: data.file, path: rows.jsonl}
evaluate:
  test: {use: eval.exact, models: [served, brief], rows: rows, extract: "(Paris|Tokyo)"}
"""


@pytest.mark.real
def test_a_served_model_is_judged(project: MakeProject, served: tuple[str, str]) -> None:
    url, model = served
    rows = "".join(json.dumps(row) + "\n" for row in ROWS)
    made = project({"recipe.yaml": RECIPE % {"url": url, "model": model}, "rows.jsonl": rows})
    made.ran()
    folder = made.folder / "build" / "t" / "test"
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    assert scores["served"]["accuracy"] == 1.0
    said = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert all(answer["answer"] for answer in said)
    made.edit("recipe.yaml", f'"{model}"', '"another"')
    ran = made.run("build")
    assert ran.code == 2
    assert "has no model 'another'" in ran.err
