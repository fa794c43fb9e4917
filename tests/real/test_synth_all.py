"""All generators in one recipe, with a real model behind a real server: everything is counted."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from api_server import serve
from conftest import MakeProject, Project

for package in ("openai", "fastapi", "uvicorn"):
    pytest.importorskip(package, reason=f"needs the package {package}")

RECIPE = """
finery: 1
name: t
models:
  teacher:
    {use: openai.model, model: "%(model)s", base_url: "%(url)s/v1", api_key: null, timeout: 300}
data:
  rows: {use: data.file, path: rows.jsonl}
  docs: {use: docs.files, path: docs, shortest: 20}
generate:
  answers: {use: synth.answer, rows: rows, model: teacher, n: 2, max_tokens: 24, retries: 1}
  wordings: {use: synth.paraphrase, rows: rows, model: teacher, n: 2, max_tokens: 24, retries: 1}
  examples:
    {use: synth.instruct, rows: rows, model: teacher, n: 3, format: text, per_request: 1, max_tokens: 24,
     retries: 1}
  questions:
    {use: synth.from_docs, rows: docs, model: teacher, n: 1, context: with, distractors: 1,
     prompt: prompts/questions.jinja, temperature: 0, max_tokens: 80, retries: 1}
  preferences:
    {use: synth.preferences, rows: rows, model: teacher, n: 3, max_tokens: 16, retries: 1,
     checks: {max_characters: {assistant: 50}}}
  wrong: {use: synth.preferences, rows: rows, model: teacher, chosen: row, n: 2, max_tokens: 24}
  scores:
    {use: synth.judge, rows: rows, model: teacher, rubric: It is right., max_tokens: 32,
     prompt: prompts/score.jinja}
  better:
    {use: synth.judge, what: pairs, rows: wrong, model: teacher, rubric: It is right.,
     max_tokens: 32, undecided: keep, lost: keep, prompt: prompts/better.jinja}
"""
# A model of 135 million parameters follows no instructions, but it repeats.
REPEAT = '{# user #}\nRepeat: {"a": "b"}\n{# assistant #}\n{"a": "b"}\n{# user #}\nRepeat: '
PROMPTS = {
    "prompts/questions.jinja": REPEAT
    + '{"question": "What of {{ heading }}?", "answer": "It is so.", "quote": "{{ text[-30:] }}"}',
    "prompts/score.jinja": REPEAT + '{"reason": "{{ answer }}", "score": 4}',
    "prompts/better.jinja": REPEAT + '{"reason": "it is right", "better": "A"}',
}
ROWS = {
    "What is the capital of France?": "Paris",
    "What is the capital of Italy?": "Rome",
    "What is the capital of Spain?": "Madrid",
}
DOCUMENTS = {
    f"docs/{name}.md": f"# {name}\n\nThe colour of a {name} is {colour} all year."
    for name, colour in {"rose": "red", "leaf": "green", "cloud": "white"}.items()
}


@pytest.fixture
def served(smollm2_gguf: Path) -> Iterator[tuple[str, str]]:
    """(address, model) of a server with SmolLM2-135M-Instruct."""
    with serve(smollm2_gguf) as running:
        yield running


def meta(made: Project, step: str) -> dict[str, Any]:
    path = made.folder / "build" / "t" / step / "manifest.json"
    found: dict[str, Any] = json.loads(path.read_text())["meta"]
    return found


def dropped(made: Project, step: str) -> int:
    path = made.folder / "build" / "t" / step / "dropped.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def records(made: Project) -> int:
    """Answers that were asked for and kept."""
    database = sqlite3.connect(made.folder / ".finery" / "finery.db")
    try:
        return int(database.execute("SELECT count(*) FROM records").fetchone()[0])
    finally:
        database.close()


def answers(made: Project, step: str) -> int:
    return int(meta(made, step)["answers"]["requests"])


@pytest.mark.real
def test_all_generators_account_for_all_they_ask(
    project: MakeProject, served: tuple[str, str]
) -> None:
    url, model = served
    rows = "".join(
        json.dumps({"prompt": prompt, "completion": answer}) + "\n"
        for prompt, answer in ROWS.items()
    )
    recipe = RECIPE % {"url": url, "model": model}
    made = project({"recipe.yaml": recipe, "rows.jsonl": rows, **PROMPTS, **DOCUMENTS})
    ran = made.run("build", "--keep-going", "--jobs", "1", timeout=900)
    assert ran.code == 0, ran.err + ran.out

    # One row for each request: each answer became a row, or was rejected with a reason.
    for step, wanted in {"answers": 6, "wordings": 6, "examples": 3, "questions": 3}.items():
        facts = meta(made, step)
        assert facts["wanted"] == wanted
        assert len(made.rows(step)) + dropped(made, step) == wanted
        if step != "examples":
            assert answers(made, step) == len(made.rows(step)) + sum(facts["rejected"].values())
    assert {row["context"] for row in made.rows("questions")} == {"with"}
    assert all(row["quote"] in row["messages"][0]["content"] for row in made.rows("questions"))

    for step, n in {"preferences": 3, "wrong": 2}.items():
        facts = meta(made, step)
        assert facts["prompts"] == facts["paired"] + dropped(made, step) == 3
        usable = sum(facts["unusable"].values())
        assert 3 * n <= answers(made, step) <= 3 * n + usable
        assert all(row["chosen"] != row["rejected"] for row in made.rows(step))

    assert len(made.rows("scores")) + dropped(made, "scores") == 3
    assert sum(meta(made, "scores")["scores"].values()) == len(made.rows("scores")) > 0
    pairs = meta(made, "better")
    assert sum(pairs["pairs"].values()) == len(made.rows("better")) == pairs["verdicts"] > 0
    assert answers(made, "better") >= 2 * pairs["verdicts"]
    assert pairs["positions"]["bias"] == 1.0  # it repeats what it is shown: always the first

    # What is kept is what was asked: steps that ask the same share their answers.
    asked = sum(answers(made, step) for step in meta_steps())
    shared = asked - records(made)
    assert 0 <= shared < asked
    before = records(made)
    assert made.ran() == []
    made.edit("recipe.yaml", "n: 3, max_tokens: 16", "n: 4, max_tokens: 16")
    assert made.ran("--step", "preferences") == ["preferences"]
    assert 3 <= records(made) - before <= 6


def meta_steps() -> list[str]:
    """The steps that ask."""
    return [
        "answers", "wordings", "examples", "questions", "preferences", "wrong", "scores", "better",
    ]  # fmt: skip
