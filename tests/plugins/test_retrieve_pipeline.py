"""Documents to measured answers: questions of a teacher, a split by document, rows, evaluations."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from generating import Here
from hostile_server import Body, Server, said, serving
from needs import need

from finery.rows import answer_text

need("openai")

RECIPE = """
finery: 1
name: t
models:
  teacher: {use: openai.model, model: m, base_url: "%s", api_key: null, timeout: 5}
  nearest: {use: baseline.nearest, rows: raft}
data:
  docs: {use: docs.files, path: docs, chunk: 200}
  index: {use: retrieve.index, rows: docs}
  split: {use: data.split, rows: questions, validation: 0, test: 0.4, group: source}
generate:
  questions: {use: synth.from_docs, rows: docs, model: teacher, n: 2, context: without}
  raft: {use: synth.raft, rows: split.train, index: index, oracle: 1, k: 3}
evaluate:
  retrieval:
    use: eval.retrieval
    indices: index
    rows: split.test
    k: [1]
    require: {index.recall@1: ">= 0.5"}
  grounded:
    use: eval.grounded
    models: nearest
    rows: split.test
    index: index
    require: {nearest.retrieved.answer: ">= 0.1"}
"""
ROOMS = range(10, 20)


def asked(body: Body) -> str:
    """A question about the chunk, with its first sentence as the proof."""
    chunk = said(body).split("-----")[1]
    name = re.findall(r"Room \d+", chunk)[0]
    kind = said(body).partition("Write a question ")[2].partition(",")[0]
    sentence = re.findall(r"Room \d+ [^.]*\.", chunk)[0]
    return json.dumps({
        "question": f"What of {name}, {kind}?", "answer": f"It is {name}.", "quote": sentence,
    })  # fmt: skip


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(asked) as running:
        yield running


def test_questions_of_a_teacher_become_rows_and_measured_answers(
    tmp_path: Path, server: Server
) -> None:
    project = Here(tmp_path)
    text = "# Room {0}\n\nRoom {0} has the number {1} in all lists.\n"
    documents = {f"docs/{room}.md": text.format(room, room * 7919) for room in ROOMS}
    project.write({"recipe.yaml": RECIPE % server.url, ".git/x": "", **documents})
    project.ran()
    rows = project.rows("raft")
    assert rows
    assert all(re.search(r'^It is Room \d+\. "Room \d+ has .*" \[[123]\]$', answer_text(row))
               for row in rows)  # fmt: skip
    trained, tested = ({row["source"] for row in project.rows(n)} for n in ("raft", "split/test"))
    assert trained
    assert tested
    assert not trained & tested
    predictions = project.lines("grounded", "predictions.jsonl")
    assert {line["context"] for line in predictions} == {
        "none", "oracle", "retrieved", "distractors",
    }  # fmt: skip
    assert all(line["rank"] for line in project.lines("retrieval", "predictions.jsonl"))
