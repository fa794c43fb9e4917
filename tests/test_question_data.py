"""The data of docs-assistant: each question is proved by its document, and asked once."""

import json
from functools import cache
from itertools import chain
from pathlib import Path

import pytest

from finery.builder.project import open_graph
from finery.rows import Row
from finery.rows.near import normalised
from finery_docs.chunks import Limits
from finery_docs.chunks import chunks as split_document
from finery_docs.files import DocsFiles
from finery_docs.plain import read_markdown
from finery_retrieve.citations import is_verbatim
from finery_retrieve.expected import contains

RECIPE = Path(__file__).parents[1] / "recipes" / "docs-assistant"
SPLITS = ("train", "validation", "test")
UNKNOWN = "The documents don't say."


@cache
def questions(split: str) -> list[Row]:
    """The questions of one split."""
    text = (RECIPE / "data" / "questions" / f"{split}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def answerable(split: str) -> list[Row]:
    """The questions that the documents answer."""
    return [row for row in questions(split) if row.get("answerable", True)]


def sources(split: str) -> set[str]:
    """The documents that a split asks about."""
    return {row["source"] for row in answerable(split)}


@cache
def chunks() -> dict[str, list[str]]:
    """Document → its chunks, split as in the recipe."""
    step = open_graph(RECIPE / "recipe.yaml").nodes["docs"].step
    assert isinstance(step, DocsFiles)
    limits = Limits(step.chunk, step.overlap, step.shortest)
    texts = {}
    for path in (RECIPE / "data" / "docs").rglob("*.md"):
        document = read_markdown(path.read_bytes())
        parts = [document.text[part.start : part.end] for part in split_document(document, limits)]
        texts[str(path.relative_to(RECIPE))] = [
            text for text in parts if len(text) >= step.shortest
        ]
    return texts


def test_there_are_enough_questions() -> None:
    assert 500 <= len(questions("train")) <= 700
    assert len(questions("validation")) >= 40
    assert len(questions("test")) >= 120


@pytest.mark.parametrize("split", SPLITS)
def test_an_eighth_of_the_questions_has_no_answer(split: str) -> None:
    unknown = [row for row in questions(split) if not row.get("answerable", True)]
    assert 0.10 <= len(unknown) / len(questions(split)) <= 0.15
    assert all(row["answer"] == UNKNOWN and row.keys() <= UNANSWERED for row in unknown)


UNANSWERED = {"question", "answer", "answerable"}
"""What a row without an answer in the documents has."""


def test_no_document_is_in_two_splits() -> None:
    sets = [sources(split) for split in SPLITS]
    assert sum(map(len, sets)) == len(set.union(*sets))


def test_each_document_is_asked_about() -> None:
    documents = {str(path.relative_to(RECIPE)) for path in (RECIPE / "data/docs").rglob("*.md")}
    assert documents == set.union(*map(sources, SPLITS))


def test_no_question_is_repeated() -> None:
    every = [normalised(row["question"]) for row in chain(*map(questions, SPLITS))]
    assert sorted(every) == sorted(set(every))


@pytest.mark.parametrize("split", SPLITS)
def test_each_quote_is_in_a_chunk_of_its_document(split: str) -> None:
    for row in answerable(split):
        texts = chunks()[row["source"]]
        assert any(is_verbatim(row["quote"], text) for text in texts), row["quote"]
        assert '"' not in row["quote"], row["quote"]


@pytest.mark.parametrize("split", SPLITS)
def test_what_is_expected_is_in_the_answer_and_in_its_quote(split: str) -> None:
    for row in answerable(split):
        assert row["expected"]
        assert contains(row["answer"], row["expected"]), row["question"]
        assert contains(row["quote"], row["expected"]), row["question"]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_what_is_expected_is_not_in_the_question(split: str) -> None:
    """A model that repeats the question must not be right."""
    for row in answerable(split):
        assert not contains(row["question"], row["expected"]), row["question"]


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_short(split: str) -> None:
    assert max(len(row["answer"].split()) for row in answerable(split)) <= 20
