"""Generators with a real model as their teacher: behind a server, and in this process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import serve
from conftest import WHEEL, MakeProject, Project

for package in ("openai", "fastapi", "uvicorn"):
    pytest.importorskip(package, reason=f"needs the package {package}")

TICKETS = [
    ("My parcel has not arrived yet, where is it?", "shipping"),
    ("The courier left my package at the wrong house.", "shipping"),
    ("How long does delivery to Spain take?", "shipping"),
    ("I was charged twice for one order.", "billing"),
    ("Please send me an invoice for last month.", "billing"),
    ("The discount was not taken off my bill.", "billing"),
]
GENERATORS = """
data:
  rows: {use: data.file, path: rows.jsonl}
generate:
  answers: {use: synth.answer, rows: rows, model: teacher, max_tokens: 48, n: 2, retries: 1}
  wordings: {use: synth.paraphrase, rows: rows, model: teacher, max_tokens: 48, n: 2, retries: 1}
  examples:
    {use: synth.instruct, rows: rows, model: teacher, by: label, n: 4, per_request: 2, shown: 2,
     max_tokens: 160, temperature: 0.8, retries: 2}
"""
WANTED = {"answers": 12, "wordings": 12, "examples": 8}


@pytest.fixture
def served(smollm2_gguf: Path) -> Iterator[tuple[str, str]]:
    """(address, model) of a server with SmolLM2-135M-Instruct."""
    with serve(smollm2_gguf) as running:
        yield running


def lines(tickets: list[tuple[str, str]]) -> str:
    rows = [{"prompt": text, "completion": label, "label": label} for text, label in tickets]
    return "".join(json.dumps(row) + "\n" for row in rows)


def built(made: Project) -> dict[str, Any]:
    """What each generator made, once all its rows are accounted for."""
    found = {}
    for name, wanted in WANTED.items():
        folder = made.folder / "build" / "t" / name
        drops = folder / "dropped.jsonl"
        dropped = len(drops.read_text().splitlines()) if drops.exists() else 0
        rows = made.rows(name)
        assert len(rows) + dropped == wanted, name
        origins = [json.loads(line) for line in (folder / "generated.jsonl").open()]
        assert [origin["id"] for origin in origins] == [row["id"] for row in rows]
        found[name] = rows
    return found


@pytest.mark.real
def test_a_served_model_teaches(project: MakeProject, served: tuple[str, str]) -> None:
    url, model = served
    recipe = f"""
finery: 1
name: t
models:
  teacher: {{use: openai.model, model: "{model}", base_url: "{url}/v1", api_key: null, timeout: 120}}
{GENERATORS}"""
    made = project({"recipe.yaml": recipe, "rows.jsonl": lines(TICKETS)})
    made.ran("--keep-going", *settings(), "--jobs", "1")
    found = built(made)
    assert len(found["answers"]) >= 4
    assert {row["label"] for row in found["wordings"]} == {"shipping", "billing"}
    assert made.ran(*settings()) == []


@pytest.mark.real
def test_a_local_model_teaches(project: MakeProject) -> None:
    wheel = json.dumps({"use": "local.wheel", **WHEEL})
    recipe = f"""
finery: 1
name: t
models:
  teacher: {wheel}
{GENERATORS}"""
    made = project({"recipe.yaml": recipe, "rows.jsonl": lines(TICKETS)})
    made.ran(*settings())
    found = built(made)
    assert len(found["answers"]) >= 4
    assert all(row["messages"][-1]["content"] for row in found["answers"])


def settings() -> list[str]:
    return []
