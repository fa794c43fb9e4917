"""The data of docs-assistant: each question is proved by its document, and asked once."""

import json
from functools import cache
from pathlib import Path

import pytest

from finery.builder.project import open_graph
from finery.rows import Row
from finery_docs.chunks import Limits
from finery_docs.chunks import chunks as split_document
from finery_docs.files import DocsFiles
from finery_docs.plain import read_markdown
from finery_retrieve.citations import contains, is_verbatim

RECIPE = Path(__file__).parents[1] / "recipes" / "docs-assistant"
SPLITS = ("train", "validation", "test")


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


def test_no_document_is_in_two_splits() -> None:
    sets = [sources(split) for split in SPLITS]
    assert sum(map(len, sets)) == len(set.union(*sets))


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
