"""All generators in one recipe, with a real model behind a real server: everything is counted."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project
from hostile_server import kept_answers

RECIPE = """
finery: 1
name: t
models:
  teacher:
    {use: openai.model, model: "%(model)s", base_url: "%(url)s/v1", api_key: null, timeout: 300}
data:
  rows: {use: data.file, path: rows.jsonl}
  tickets: {use: data.file, path: tickets.jsonl}
  things: {use: data.file, path: things.jsonl, prompts_only: true}
  docs: {use: docs.files, path: docs, shortest: 20}
generate:
  answers: {use: synth.answer, rows: rows, model: teacher, n: 2, max_tokens: 24, retries: 1}
  wordings: {use: synth.paraphrase, rows: rows, model: teacher, n: 2, max_tokens: 24, retries: 1}
  examples:
    {use: synth.instruct, rows: tickets, model: teacher, by: label, n: 2, format: text, shown: 2,
     per_request: 1, max_tokens: 48, retries: 1}
  questions:
    {use: synth.from_docs, rows: docs, model: teacher, n: 1, context: with, distractors: 1,
     prompt: prompts/questions.jinja, temperature: 0, max_tokens: 80, retries: 1}
  preferences:
    {use: synth.preferences, rows: things, model: teacher, n: 3, max_tokens: 16, temperature: 1.3,
     retries: 1, prompt: prompts/things.jinja,
     checks: {python: {file: checks.py, functions: [even]}}}
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
    "prompts/better.jinja": '{# user #}\nWhich?\n{# assistant #}\n{"better": "A"}\n' * 3
    + "{# user #}\nWhich?",
    "prompts/things.jinja": "{# user #}\nName a colour.\n{# assistant #}\nRed\n"
    "{# user #}\nName a city.\n{# assistant #}\nLondon\n{# user #}\n{{ user }}",
    # Chance decides, so that some answers pass and some don't.
    "checks.py": "def even(row):\n    return len(row['messages'][-1]['content']) % 2 == 0\n",
}
ROWS = {
    "What is the capital of France?": "Paris",
    "What is the capital of Italy?": "Rome",
    "What is the capital of Spain?": "Madrid",
}
TICKETS = {
    "Where is my parcel? It has not arrived.": "shipping",
    "How long does delivery to Spain take?": "shipping",
    "I was charged twice for one order.": "billing",
    "Please send me an invoice for last month.": "billing",
}
THINGS = ("an animal", "a fruit", "a job", "a country")
DOCUMENTS = {
    f"docs/{name}.md": f"# {name}\n\nThe colour of a {name} is {colour} all year."
    for name, colour in {"rose": "red", "leaf": "green", "cloud": "white"}.items()
}

ASKING = (
    "answers", "wordings", "examples", "questions", "preferences", "wrong", "scores", "better",
)  # fmt: skip


def lines(rows: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def meta(made: Project, step: str) -> dict[str, Any]:
    path = made.folder / "build" / "t" / step / "manifest.json"
    found: dict[str, Any] = json.loads(path.read_text())["meta"]
    return found


def dropped(made: Project, step: str) -> int:
    path = made.folder / "build" / "t" / step / "dropped.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def calls(gguf: Path) -> int:
    """Requests that the server answered, by its own log."""
    log = gguf.with_name(f"serve-{os.getpid()}.log").read_text()
    return log.count('"POST /v1/chat/completions HTTP/1.1" 200')


def answers(made: Project, step: str) -> int:
    return int(meta(made, step)["answers"]["requests"])


@pytest.mark.real
def test_all_generators_account_for_all_they_ask(
    project: MakeProject, served: tuple[str, str], smollm2_gguf: Path
) -> None:
    url, model = served
    before = calls(smollm2_gguf)  # of other tests
    recipe = RECIPE % {"url": url, "model": model}
    made = project(
        {
            "recipe.yaml": recipe,
            "rows.jsonl": lines({"prompt": p, "completion": c} for p, c in ROWS.items()),
            "things.jsonl": lines({"prompt": f"Name {thing}."} for thing in THINGS),
            "tickets.jsonl": lines(
                {"prompt": p, "completion": label, "label": label} for p, label in TICKETS.items()
            ),
            **PROMPTS,
            **DOCUMENTS,
        }
    )
    ran = made.run("build", "--keep-going", "--jobs", "1", timeout=900)
    assert ran.code == 0, ran.err + ran.out

    # One row for each request: each answer became a row, or was rejected with a reason.
    for step, wanted in {"answers": 6, "wordings": 6, "examples": 4, "questions": 3}.items():
        facts = meta(made, step)
        assert facts["wanted"] == wanted
        assert len(made.rows(step)) + dropped(made, step) == wanted
        if step != "examples":
            assert answers(made, step) == len(made.rows(step)) + sum(facts["rejected"].values())
    assert {row["context"] for row in made.rows("questions")} == {"with"}
    assert all(row["quote"] in row["messages"][0]["content"] for row in made.rows("questions"))

    for step, rows, n in (("preferences", 4, 3), ("wrong", 3, 2)):
        facts = meta(made, step)
        assert facts["prompts"] == facts["paired"] + dropped(made, step) == rows
        unusable = sum(facts["unusable"].values())
        assert rows * n <= answers(made, step) <= rows * n + unusable
        assert all(row["chosen"] != row["rejected"] for row in made.rows(step))

    assert len(made.rows("scores")) + dropped(made, "scores") == 3
    assert sum(meta(made, "scores")["scores"].values()) == len(made.rows("scores")) > 0
    pairs = meta(made, "better")
    assert sum(pairs["pairs"].values()) == len(made.rows("better")) == pairs["verdicts"] > 0
    assert answers(made, "better") >= 2 * pairs["verdicts"]
    assert pairs["positions"]["bias"] == 1.0  # it repeats what it is shown: always the first

    # Each answer was asked for once, and kept; steps that ask the same share theirs.
    used = sum(answers(made, step) for step in ASKING)
    asked = calls(smollm2_gguf) - before
    assert 0 < kept_answers(made) <= asked <= used
    assert made.ran() == []
    made.edit("recipe.yaml", "n: 3, max_tokens: 16", "n: 4, max_tokens: 16")
    assert made.ran("--step", "preferences") == ["preferences"]
    again = answers(made, "preferences") - 4 * 4  # answers that couldn't be used
    assert asked + 4 <= calls(smollm2_gguf) - before <= asked + 4 + again
