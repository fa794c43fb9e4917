"""What `finery plan` says about test rows."""

import json

import pytest
from conftest import MakeProject

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
        ("a, b", "can tell differences of 12 points apart"),
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
