"""synth.raft: rows that quote and cite, distractors, and prompts like those of the model."""

import re
from pathlib import Path
from typing import Any

import pytest
from asking import chunk_rows, colour_row, index_of, number, question_row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_llama import tiny_counter

from finery import DataError, Dataset, Files, Index, Model
from finery.rows import Row, answer_text, split_turns
from finery.rows.dropped import read_dropped
from finery.testing import TestJob, dataset, run_step
from finery_data.steps.file import File
from finery_retrieve.citations import check_citations, is_verbatim
from finery_retrieve.index.chunks import escape_control_tokens
from finery_retrieve.index.context import UNKNOWN, Lookup
from finery_retrieve.index.retriever import Retriever
from finery_retrieve.index.words import Bm25
from finery_retrieve.steps.model import RetrieveModel
from finery_retrieve.steps.raft import Raft

ROOMS = range(10, 18)
GUIDE = (Path(__file__).parents[2] / "docs/howto/retrieval-training.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index")
    return index_of(folder, chunk_rows(), tokenizer=tiny_counter(folder / "base"))


def raft(folder: Path, index: Index, rows: list[Row], seed: int = 0, **given: Any) -> Dataset:
    step = Raft(rows=[dataset(folder / "questions", rows)], index=index, **given)
    return step.run(TestJob(folder / "job", seed=seed))


def test_rows_quote_and_cite_the_right_chunk(tmp_path: Path, index: Index) -> None:
    questions = [question_row(room) for room in ROOMS]
    output = raft(tmp_path, index, questions, oracle=1.0)
    rows = list(output)
    assert output.meta["context"] == {"with": 8, "missing": 0}
    retriever = Retriever.open(index, TestJob())
    places = set()
    for room, question, row in zip(ROOMS, questions, rows, strict=True):
        ids = [hit["id"] for hit in row["retrieved"]]
        assert len(ids) == 4
        assert row["chunk"] == question["parents"][0]
        label = ids.index(row["chunk"]) + 1
        places.add(label)
        proof = f"Room {room} has the inventory number {number(room)}."
        assert answer_text(row) == f'It is {number(room)}. "{proof}" [{label}]'
        assert row["parents"] == [question["id"]]
        chunks = [retriever.chunk(id) for id in ids]
        texts = [chunk.text for chunk in chunks if chunk is not None]
        assert check_citations(answer_text(row), texts).faults == []
        assert [proof in text for text in texts].count(True) == 1
        assert all(hit["score"] > 0 for hit in row["retrieved"])
    assert len(places) > 1  # the right chunk isn't always at the same place


def test_a_share_of_rows_has_only_distractors(tmp_path: Path, index: Index) -> None:
    questions = [question_row(room) for room in ROOMS] + [colour_row(room) for room in ROOMS]
    output = raft(tmp_path, index, questions, oracle=0.5)
    missing = [row for row in output if row["context"] == "missing"]
    assert output.meta["context"] == {"with": 16 - len(missing), "missing": len(missing)}
    assert 3 <= len(missing) <= 13
    for row in missing:
        assert answer_text(row) == UNKNOWN
        assert row["retrieved"]
        assert row["chunk"] not in [hit["id"] for hit in row["retrieved"]]


def test_distractors_are_what_is_retrieved_without_what_answers(
    tmp_path: Path, index: Index
) -> None:
    (row,) = raft(tmp_path, index, [question_row(13)], oracle=0.0, order="ranked")
    question = split_turns(question_row(13))[0][0]["content"]
    (hits,) = Retriever.open(index, TestJob()).search([question], 5)
    expected = [hit.id for hit in hits if hit.id != row["chunk"]][:4]
    assert [hit["id"] for hit in row["retrieved"]] == expected


@pytest.mark.parametrize(("changes", "reason"), [
    ({"quote": "Room 13 has the inventory number 1."}, "altered-quote"),
    ({"context": "with"}, "unusable"),
    ({"quote": "nothing like this anywhere", "parents": ["gone"]}, "no-chunk"),
    ({"expected": [3]}, "unusable"),
])  # fmt: skip
def test_rows_that_fail_are_dropped_with_a_reason(
    tmp_path: Path, index: Index, changes: Row, reason: str
) -> None:
    output = raft(tmp_path, index, [question_row(11), {**question_row(13), **changes}], oracle=1.0)
    assert len(output) == 1
    assert output.meta["dropped"] == {reason: 1}
    assert [line["reason"] for line in read_dropped(output)] == [reason]


def test_answers_are_cited_as_asked(tmp_path: Path, index: Index) -> None:
    rows = [question_row(13)]
    (row,) = raft(tmp_path / "n", index, rows, oracle=1.0, cite="numbers", order="ranked")
    assert answer_text(row) == f"It is {number(13)}. [1]"
    (row,) = raft(tmp_path / "0", index, rows, oracle=1.0, cite="none")
    assert answer_text(row) == f"It is {number(13)}."
    (row,) = raft(tmp_path / "a", index, rows, oracle=0.0, missing="answer")
    assert answer_text(row) == f"It is {number(13)}."


def test_control_tokens_of_documents_stay_text_in_prompt_and_quote(tmp_path: Path) -> None:
    text = "Room 9 has the sign <|im_end|> on its door."
    index = index_of(tmp_path, [{"id": "c9", "text": text, "source": "9.md"}])
    question = {**question_row(13), "parents": ["c9"], "quote": text, "source": "9.md"}
    (row,) = raft(tmp_path, index, [question], oracle=1.0)
    assert "<|im_end|>" not in str(row["messages"])
    assert answer_text(row).endswith('"Room 9 has the sign < |im_end|> on its door." [1]')


def test_answers_that_lose_their_quote_are_counted(tmp_path: Path) -> None:
    chunk = {"text": 'Press "A" or "B".', "source": "keys.md", "id": "keys"}
    index = index_of(tmp_path, [chunk, *chunk_rows()])
    row = {
        "id": "q", "quote": 'Press "A" or "B".', "source": "keys.md",
        "messages": [{"role": "user", "content": "What is pressed?"},
                     {"role": "assistant", "content": "A or B."}],
    }  # fmt: skip
    job = TestJob(tmp_path / "job")
    step = Raft(rows=[dataset(tmp_path / "q", [row])], index=index, oracle=1.0)
    (output,) = step.run(job)
    assert '"' not in answer_text(output)
    assert any("1 answer without a quote: quotation marks" in str(event) for event in job.events)


def test_rows_dont_depend_on_other_rows_but_on_the_seed(tmp_path: Path, index: Index) -> None:
    rows = [question_row(room) for room in ROOMS]
    whole = list(raft(tmp_path / "a", index, rows))
    part = list(raft(tmp_path / "b", index, rows[3:5]))
    assert part == whole[3:5]
    assert list(raft(tmp_path / "c", index, rows, seed=1)) != whole


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), template=st.sampled_from([None, "own"]))
def test_prompts_are_those_of_the_model_for_the_same_chunks(
    tmp_path_factory: pytest.TempPathFactory, index: Index, seed: int, template: str | None
) -> None:
    """What a model retrieves is a context in ranked order, and its prompt is the same bytes."""
    folder = tmp_path_factory.mktemp("same")
    given: dict[str, Any] = {"limit": 400, "unknown": "No idea."} if template else {}
    (row,) = raft(
        folder, index, [question_row(10 + seed % 8)], oracle=1.0, order="ranked", seed=seed, **given
    )
    model = RetrieveModel(model=Model(folder, meta={"format": "x"}), index=index, **given)
    lookup = Lookup.of(model.run(TestJob(folder / "model")), TestJob())
    prompt = split_turns(question_row(10 + seed % 8))[0]
    (prompted,) = lookup.prompts([prompt])
    assert [hit["id"] for hit in row["retrieved"]] == [hit.id for hit in prompted.hits]
    assert split_turns(row)[0] == prompted.messages


texts = st.lists(
    st.sampled_from([
        "export", "limit", "50 MB", '"Export all"', "[1]", "[2, 3]", "`rows[0]`", "<|im_end|>",
        "“curly”", "…", "{{ x }}", "\n\n", "don't", "42", "file", "nightly", "report", "…and",
    ]),
    min_size=4, max_size=14,
).map(" ".join)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chunks=st.lists(texts, min_size=2, max_size=5, unique=True), answer=texts, data=st.data())
def test_whatever_documents_hold_each_row_keeps_its_promises(
    tmp_path_factory: pytest.TempPathFactory,
    chunks: list[str],
    answer: str,
    data: st.DataObject,
) -> None:
    """Cited numbers are in the prompt, quotes in the chunk, and no distractor has the quote."""
    folder = tmp_path_factory.mktemp("any")
    rows = [{"id": f"c{i}", "text": f"word {text}", "source": f"{i}.md"}
            for i, text in enumerate(chunks)]  # fmt: skip
    index = index_of(folder, rows, bm25=Bm25(language="none"))
    words = chunks[0].split()
    start = data.draw(st.integers(0, len(words) - 1))
    turns = [{"role": "user", "content": "Which word?"}, {"role": "assistant", "content": answer}]
    quote = " ".join(words[start:])
    question = {"messages": turns, "quote": quote, "parents": ["c0"]}
    step = Raft(rows=[dataset(folder / "q", [question])], index=index,
                oracle=data.draw(st.sampled_from([0.0, 1.0])))  # fmt: skip
    try:
        (row,) = step.run(TestJob(folder / "job"))
    except DataError:  # the only row is dropped
        return
    shown = [escape_control_tokens(rows[int(hit["id"][1:])]["text"]) for hit in row["retrieved"]]
    assert check_citations(answer_text(row), shown).faults == []
    if row["context"] == "with":
        cited = check_citations(answer_text(row), shown).cited
        assert [row["retrieved"][number - 1]["id"] for number in cited] == ["c0"]
    else:
        assert answer_text(row) == UNKNOWN
        assert not any(is_verbatim(quote, text) for text in shown)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"quote": "Room 13"}, "is too short, it needs at least 8 letters or digits"),
    ({"quote": "room 13 has the Inventory number"},
     "a chunk of docs/13.md has the quote with other upper and lower case"),
    ({"quote": "Room 13 has no inventory number"}, "no chunk of the index contains the quote"),
])  # fmt: skip
def test_a_quote_in_no_chunk_is_explained(tmp_path: Path, changes: Row, reason: str) -> None:
    doors = [{"text": f"Room {room}'s door isn’t wide.", "source": f"docs/{room}.md"}
             for room in (12, 13)]  # fmt: skip
    index = index_of(tmp_path, [*chunk_rows(), *doors])
    bad = {**question_row(13), "parents": [], **changes}
    output = raft(tmp_path, index, [question_row(14), bad], oracle=1.0)
    (drop,) = read_dropped(output)
    assert reason in drop["detail"]
    assert "What is the inventory number of Room 13?" in drop["detail"]


def test_the_questions_of_the_guide_can_be_loaded_and_used(tmp_path: Path) -> None:
    """Word for word: the rows, and the columns that the guide's step keeps."""
    (rows,) = re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)
    (keep,) = re.findall(r"questions\.jsonl, keep: \[(.*?)\]", GUIDE)
    file = tmp_path / "questions.jsonl"
    file.write_text(rows, encoding="utf-8")
    step = File(path=Files(["questions.jsonl"], [file]), keep=keep.split(", "))
    questions = run_step(step, tmp_path / "questions")
    assert isinstance(questions, Dataset)
    texts = ("Files up to 50 MB are read.", "Larger files are refused.", "Files are read at night.")
    chunks = [{"text": text, "source": "docs/limits.md"} for text in texts]
    output = raft(tmp_path, index_of(tmp_path, chunks), list(questions), oracle=1.0, k=2)
    assert output.meta["dropped"] == {}
    answer, unknown = map(answer_text, output)
    assert re.fullmatch(r'At most 50 MB\. "Files up to 50 MB are read" \[[12]\]', answer)
    assert unknown == UNKNOWN
