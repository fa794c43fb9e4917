"""synth.from_docs: grounded questions with and without their context."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from generating import Here
from hostile_server import Body, Reply, Server, said, serving
from hypothesis import given
from hypothesis import strategies as st
from needs import need

from finery.testing import dataset
from finery_synth.steps.from_docs import Shelf, quoted

need("openai")

RECIPE = """
finery: 1
name: t
models:
  teacher: {use: openai.model, model: m, base_url: "%(url)s", api_key: null, timeout: 5}
data:
  docs: {use: docs.files, path: docs, chunk: 200}
generate:
  made: {use: synth.from_docs, rows: docs, model: teacher, %(settings)s}
"""
Make = Callable[..., Here]


def chunk_of(body: Body) -> str:
    """The chunk that a request shows."""
    return said(body).split("-----")[1].strip()


def asked(body: Body) -> str:
    """A question for each kind, with the chunk's first sentence as its proof."""
    chunk = chunk_of(body)
    name = re.findall(r"Room \d+", chunk)[0]
    kind = said(body).partition("Write a question ")[2].partition(",")[0]
    sentence = re.findall(r"Room \d+ [^.]*\.", chunk)[0]
    made = {"question": f"What of {name}, {kind}?", "answer": f"It is {name}.", "quote": sentence}
    return json.dumps(made)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(asked) as running:
        yield running


def document(i: int) -> str:
    return f"# Room {i}\n\nRoom {i} has the number {i * 7919}.\nIt is painted in colour {i}.\n"


@pytest.fixture
def making(tmp_path: Path, server: Server) -> Make:
    """A project with documents, one chunk each, and a generator."""

    def make(count: int, settings: str) -> Here:
        recipe = RECIPE % {"url": server.url, "settings": settings}
        documents = {f"docs/{i:04}.md": document(i) for i in range(count)}
        made = Here(tmp_path)
        made.write({"recipe.yaml": recipe, ".git/x": "", **documents})
        return made

    return make


# what a row is


def test_rows_are_grounded_and_keep_their_source(making: Make, server: Server) -> None:
    made = making(4, "n: 2, context: without")
    made.ran()
    rows, chunks = made.rows("made"), made.rows("docs")
    assert len(rows) == len(server.calls) == 8
    assert [row["parents"] for row in rows] == [[c["id"]] for c in chunks for _ in range(2)]
    row, chunk = rows[0], chunks[0]
    assert row["quote"] in chunk["text"]
    assert (row["source"], row["heading"], row["line"]) == ("docs/0000.md", "Room 0", 1)
    assert row["context"] == "without"
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
    assert row["messages"][1]["content"] == "It is Room 0."
    origins = made.lines("made", "generated.jsonl")
    assert [o["id"] for o in origins] == [row["id"] for row in rows]
    assert origins[0]["prompt"][-1]["content"].count(chunk["text"]) == 1
    assert json.loads(origins[0]["answer"])["quote"] == row["quote"]
    schema = server.calls[0]["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["question", "answer", "quote"]


def test_questions_that_are_not_grounded_are_asked_again_and_reported(
    making: Make, server: Server
) -> None:
    lies = {"question": "Why?", "answer": "So.", "quote": "Room 1 has no number at all."}
    bad = {
        1: Reply(json.dumps(lies)),
        2: Reply("no JSON"),
        3: Reply(json.dumps({"question": "Why?", "answer": " ", "quote": "x"})),
        4: Reply(json.dumps({"question": "Why?", "answer": "So.", "quote": "is"})),
        5: Reply(None, refusal="I won't"),
        6: Reply("{", finish="length"),
    }

    def answer(body: Body) -> str | Reply:
        return bad.get(int(re.findall(r"Room (\d+)", chunk_of(body))[0])) or asked(body)

    server.answer = answer
    made = making(8, "n: 1, context: without, retries: 1")
    made.ran()
    rows, drops = made.rows("made"), made.lines("made", "dropped.jsonl")
    assert [row["source"] for row in rows] == ["docs/0000.md", "docs/0007.md"]
    assert len(server.calls) == 8 + 6
    assert [drop["reason"] for drop in drops] == [
        "ungrounded", "unreadable", "unreadable", "ungrounded", "refused", "cut-off",
    ]  # fmt: skip
    assert [drop["row"]["source"] for drop in drops] == [f"docs/000{i}.md" for i in range(1, 7)]
    assert "the quote isn't in the chunk" in drops[0]["detail"]
    facts = made.meta("made")
    assert (facts["wanted"], facts["rows"]) == (8, 2)
    assert facts["rejected"]["ungrounded"] == 4


def test_a_question_that_repeats_another_of_its_chunk_is_rejected(
    making: Make, server: Server
) -> None:
    server.answer = lambda body: re.sub(r'"What of [^"]*"', '"The same?"', asked(body))
    made = making(2, "n: 3, retries: 0")
    made.ran()
    assert len(made.rows("made")) == 2
    assert [drop["reason"] for drop in made.lines("made", "dropped.jsonl")] == ["copy"] * 4


# contexts


def test_share_of_rows_with_a_context(making: Make) -> None:
    made = making(60, "n: 3, context: both, share: 0.5")
    made.ran()
    rows = made.rows("made")
    counts = made.meta("made")["context"]
    assert counts["with"] + counts["without"] == len(rows) == 180
    assert 65 < counts["with"] < 115
    for row in rows:
        prompt = row["messages"][0]["content"]
        assert (row["quote"] in prompt) == (row["context"] == "with")
        assert "What of Room" in prompt
    ids = {row["id"] for row in rows}
    assert [o["id"] for o in made.lines("made", "generated.jsonl")] == [row["id"] for row in rows]
    assert len(ids) == 180


def test_distractors_and_contexts_without_the_answer(making: Make, server: Server) -> None:
    settings = 'n: 2, context: with, distractors: 2, unanswerable: 0.4, unknown: "Not there."'
    made = making(40, settings)
    made.ran()
    assert len(server.calls) == 80
    rows, origins = made.rows("made"), made.lines("made", "generated.jsonl")
    assert 18 < sum(row["context"] == "missing" for row in rows) < 46
    places = set()
    for row, origin in zip(rows, origins, strict=True):
        prompt, answer = (turn["content"] for turn in row["messages"])
        assert len(origin["more"]["chunks"]) == 3
        assert len(re.findall(r"^\[\d\] Room", prompt, re.MULTILINE)) == 3
        assert (row["quote"] in prompt) == (row["context"] == "with")
        assert (answer == "Not there.") == (row["context"] == "missing")
        if row["context"] == "with":
            places.add(origin["more"]["chunks"].index(row["parents"][0]))
    assert places == {0, 1, 2}


# what is asked


def test_one_question_more_asks_only_for_it(making: Make, server: Server) -> None:
    made = making(10, "n: 2")
    made.ran()
    before = {row["id"] for row in made.rows("made")}
    made.edit("recipe.yaml", "n: 2", "n: 3")
    assert made.ran() == ["made"]
    assert len(server.calls) == 30
    assert before < {row["id"] for row in made.rows("made")}


# its parts


TEXT = "The pump   runs\nat 40 bar. “Never” open it."


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("The pump runs at 40 bar.", "The pump   runs\nat 40 bar."),
        ("... pump runs ...", "pump   runs"),
        ("the pump runs", None),
        ("pump", None),
    ],
)
def test_quotes_are_literal_but_for_space(quote: str, found: str | None) -> None:
    assert quoted(quote, TEXT) == found


@given(st.text(min_size=1), st.data())
def test_a_part_of_a_text_is_quoted(text: str, data: Any) -> None:
    start = data.draw(st.integers(0, len(text)))
    part = text[start : data.draw(st.integers(start, len(text)))]
    found = quoted(part, text)
    assert found is None or found in text


def test_a_chunk_more_changes_few_distractors(tmp_path: Path) -> None:
    rows = list(dataset(tmp_path / "d", [{"text": f"text number {i}"} for i in range(200)]))
    questions = list(
        dataset(tmp_path / "q", [{"quote": f"some quote number {i}"} for i in range(200)])
    )

    def others(shelf: Shelf) -> list[list[str]]:
        return [[o["text"] for o in shelf.others(q, i, 2)] for i, q in enumerate(questions)]

    before = others(Shelf(rows, tmp_path))
    after = others(Shelf([*rows, {"text": "another"}], tmp_path))
    assert sum(a != b for a, b in zip(before, after, strict=True)) < 20
    assert len({tuple(pair) for pair in before}) > 100
