"""Generators with a real model in this process as their teacher."""

import json

import pytest
from conftest import WHEEL, MakeProject, Project

TICKETS = [
    ("My parcel has not arrived yet, where is it?", "shipping"),
    ("The courier left my package at the wrong house.", "shipping"),
    ("I was charged twice for one order.", "billing"),
    ("Please send me an invoice for last month.", "billing"),
]
RECIPE = """
finery: 1
name: t
models:
  teacher: %s
data:
  rows: {use: data.file, path: rows.jsonl}
generate:
  answers:
    {use: synth.answer, rows: rows, model: teacher, max_tokens: 96, temperature: 0.3, retries: 1}
  wordings:
    {use: synth.paraphrase, rows: rows, model: teacher, n: 2, max_tokens: 64, temperature: 0.7,
     retries: 1}
  examples:
    {use: synth.instruct, rows: rows, model: teacher, by: label, n: 3, shown: 2, format: text,
     per_request: 1, max_tokens: 64, temperature: 0.7, checks: {max_characters: {user: 300}}}
"""
WANTED = {"answers": 4, "wordings": 8, "examples": 6}


def taught(project: MakeProject, teacher: dict[str, object]) -> Project:
    """A project that is built: each generator's rows and drops are all that was wanted."""
    rows = [{"prompt": text, "completion": label, "label": label} for text, label in TICKETS]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    made = project({"recipe.yaml": RECIPE % json.dumps(teacher), "rows.jsonl": lines})
    ran = made.run("build", timeout=900)
    assert ran.code == 0, ran.err
    for name, wanted in WANTED.items():
        folder = made.folder / "build" / "t" / name
        drops = folder / "dropped.jsonl"
        dropped = len(drops.read_text().splitlines()) if drops.exists() else 0
        kept = made.rows(name)
        assert len(kept) + dropped == wanted, name
        origins = [json.loads(line) for line in (folder / "generated.jsonl").open()]
        assert [origin["id"] for origin in origins] == [row["id"] for row in kept]
    assert all(row["label"] == row["messages"][-1]["content"] for row in made.rows("examples"))
    assert made.ran() == []
    return made


@pytest.mark.real
def test_a_local_model_teaches(project: MakeProject) -> None:
    made = taught(project, {"use": "local.wheel", **WHEEL})
    assert len(made.rows("wordings")) >= 3
