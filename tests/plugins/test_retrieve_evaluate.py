"""eval.retrieval and eval.grounded on a real index, with engines that read their prompts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from asking import (
    ENGINES,
    ROOMS,
    Reader,
    chunk_rows,
    colour_row,
    index_of,
    model_of,
    number,
    question_row,
    unanswerable_row,
)
from judging import critic
from tiny_llama import tiny_counter

from finery import DataError, Dataset, Index, Metrics, Model, RequirementError, UsageError
from finery.inference.engine import Completion, Engine, Request, Sampling
from finery.rows import Row
from finery.testing import TestJob, dataset, examine
from finery_judge.rubric import RubricJudge
from finery_retrieve.evaluate.grounded import Grounded
from finery_retrieve.evaluate.retrieval import Retrieval
from finery_retrieve.index.context import Lookup
from finery_retrieve.steps.model import RetrieveModel


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("index")
    return index_of(folder, chunk_rows(), tokenizer=tiny_counter(folder / "base"))


def measured(folder: Path, step: Any) -> tuple[Metrics, str]:
    """(metrics, log)."""
    job = TestJob(folder / "job", engines=ENGINES)
    metrics = step.run(job)
    return metrics, "\n".join(e["message"] for e in job.events if e["event"] == "log")


def retrieval(folder: Path, indices: list[Index], rows: list[Row], **given: Any) -> Retrieval:
    return Retrieval(indices=indices, rows=dataset(folder / "questions", rows), **given)


def grounded(folder: Path, index: Index, rows: list[Row], *names: str, **given: Any) -> Grounded:
    models = [model_of(folder, name) for name in names or ("reader", "guesser")]
    return Grounded(
        models=models, rows=dataset(folder / "questions", rows), index=index, **given
    )  # fmt: skip


# eval.retrieval


def test_the_rank_of_the_right_chunk_is_measured(tmp_path: Path, index: Index) -> None:
    rows = [question_row(room) for room in ROOMS]
    metrics, _ = measured(tmp_path, retrieval(tmp_path, [index], rows, k=[1, 2]))
    report = metrics.report().data()
    assert report["scores"]["index"] == {
        "recall@2": 1.0, "recall@1": 1.0, "mrr@2": 1.0, "ndcg@2": 1.0,
    }  # fmt: skip
    low, high = report["intervals"]["index"]["recall@1"]
    assert low < 0.7
    assert high == 1
    assert [line["rank"] for line in metrics.predictions()] == [1] * len(ROOMS)


def test_indices_are_compared_on_the_same_questions(tmp_path: Path, index: Index) -> None:
    """The other index has longer chunks, whose ids no question names, and lacks a document."""
    rooms = list(ROOMS)[:-1]
    longer = [
        {"text": f"{one['text']}\n{two['text']}", "source": one["source"]}
        for one, two in zip(*[iter(chunk_rows(rooms))] * 2, strict=True)
    ]
    other = index_of(tmp_path, longer, "longer")
    rows = [question_row(room) for room in ROOMS] + [colour_row(room) for room in ROOMS]
    metrics, log = measured(tmp_path, retrieval(tmp_path, [index, other], rows, k=[5]))
    report = metrics.report().data()
    assert report["scores"]["index"]["recall@5"] == 1
    assert report["scores"]["longer"]["recall@5"] == pytest.approx(14 / 16)
    assert "longer: no chunk contains the answer of 2 questions, counted as missed" in log
    assert "16 questions about 8 documents: those about one document count together" in log
    (pair,) = report["details"]["pairs"]
    assert pair["metrics"]["recall@5"]["difference"] == pytest.approx(-2 / 16)
    titles = [table["title"] for table in report["details"]["tables"]]
    assert titles == ["Metrics", "Compared with index", "recall@5 by document"]
    worst = report["details"]["tables"][2]["rows"][0]
    assert worst == ["docs/17.md", 2, 1.0, 0.0]


def test_a_question_of_two_chunks_needs_both(tmp_path: Path, index: Index) -> None:
    one, two = chunk_rows([13])
    row = {**question_row(13), "parents": [one["id"], two["id"]]}
    metrics, _ = measured(tmp_path, retrieval(tmp_path, [index], [row], k=[1, 16]))
    scores = metrics.report().data()["scores"]["index"]
    assert scores["recall@1"] == 0.5
    assert scores["recall@16"] == 1


def test_rows_without_a_right_chunk_are_refused(tmp_path: Path, index: Index) -> None:
    rows = [question_row(13), {**question_row(14), "parents": ["gone"], "quote": ""}]
    with pytest.raises(DataError) as raised:
        measured(tmp_path, retrieval(tmp_path, [index], rows))
    assert "in no index" in str(raised.value)
    assert "none of the chunks that the row was made from" in str(raised.value)
    step = retrieval(tmp_path / "b", [index], [{**question_row(13), "context": "with"}])
    with pytest.raises(DataError, match="already contains documents"):
        measured(tmp_path, step)


def test_requirements_name_an_index(tmp_path: Path, index: Index) -> None:
    step = retrieval(tmp_path, [index], [question_row(13)], require={"index.recall@10": ">= 0.9"})
    metrics, _ = measured(tmp_path, step)
    step.verify({"": metrics})
    strict = retrieval(tmp_path, [index], [question_row(13)], require={"index.mrr@10": "> 1"})
    with pytest.raises(RequirementError, match=r"index\.mrr@10 is 1"):
        strict.verify({"": metrics})
    for wrong in ("index.recall@7", "bm25.recall@10"):
        with pytest.raises(UsageError):
            retrieval(tmp_path, [index], [], require={wrong: ">= 0.9"}).check()


# eval.grounded


def test_a_reader_needs_the_context_and_a_guesser_doesnt(tmp_path: Path, index: Index) -> None:
    rows = [question_row(room) for room in ROOMS]
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, rows))
    scores = metrics.report().data()["scores"]
    assert scores["reader"] == {
        "retrieved.answer": 1.0, "oracle.answer": 1.0, "none.answer": 0.0,
        "distractors.abstained": 1.0, "retrieved.cited": 1.0, "retrieved.quoted": 1.0,
        "retrieved.answered": 1.0, "oracle.cited": 1.0, "oracle.quoted": 1.0,
        "oracle.answered": 1.0,
    }  # fmt: skip
    assert scores["guesser"] == {
        "retrieved.answer": 1.0, "oracle.answer": 1.0, "none.answer": 1.0,
        "distractors.abstained": 0.0, "retrieved.cited": 0.0, "retrieved.quoted": 0.0,
        "retrieved.answered": 1.0, "oracle.cited": 0.0, "oracle.quoted": 0.0,
        "oracle.answered": 1.0,
    }  # fmt: skip
    (pair,) = metrics.report().data()["details"]["pairs"]
    assert (pair["model"], pair["baseline"]) == ("guesser", "reader")
    assert pair["metrics"]["none.answer"]["difference"] == 1
    assert pair["metrics"]["none.answer"]["p_value"] < 0.01


class Thinker(Engine):
    """Thinks, and doesn't answer."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        counts: dict[str, Any] = {"prompt_tokens": 1, "completion_tokens": 1}
        return [Completion(text="", reasoning="…", finish_reason="stop", **counts)] * len(requests)


def test_answers_that_are_only_thinking_are_logged(tmp_path: Path, index: Index) -> None:
    step = grounded(tmp_path, index, [question_row(13)], "thinker", contexts=["oracle"])
    job = TestJob(tmp_path / "job", engines={"thinker": Thinker})
    step.run(job)
    logged = [event["message"] for event in job.events if event["event"] == "log"]
    assert any(text.startswith("thinker: 1 of 1 answers are only thinking") for text in logged)


def test_questions_that_no_document_answers_must_be_declined(tmp_path: Path, index: Index) -> None:
    rows = [question_row(13), unanswerable_row()]
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, rows))
    scores = metrics.report().data()["scores"]
    assert scores["reader"]["retrieved.abstained"] == 1
    assert scores["guesser"]["retrieved.abstained"] == 0
    assert scores["reader"]["retrieved.answer"] == 1  # of the other question alone


def test_expected_texts_are_judged_where_rows_have_them(tmp_path: Path, index: Index) -> None:
    rows = [question_row(13, expected=[[str(number(13)), "thirteen"]]),
            question_row(14, expected=["something else"])]  # fmt: skip
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, rows, "reader", contexts=["oracle"]))
    assert metrics.report().data()["scores"]["reader"]["oracle.answer"] == 0.5
    wrong = [line for line in metrics.predictions() if not line["correct"]]
    assert [line["error"] for line in wrong] == ["lacks an expected text"]


def test_prompts_are_those_of_a_model_that_retrieves(tmp_path: Path, index: Index) -> None:
    rows = [question_row(room) for room in ROOMS]
    Reader.prompts.clear()
    given: dict[str, Any] = {"k": 3, "unknown": "No idea."}
    step = grounded(tmp_path, index, rows, "reader", contexts=["retrieved"], **given)
    measured(tmp_path, step)
    model = RetrieveModel(model=model_of(tmp_path, "reader"), index=index, **given)
    lookup = Lookup.of(model.run(TestJob(tmp_path / "model")), TestJob())
    prompts = lookup.prompts([row["messages"][:1] for row in rows])
    assert Reader.prompts == [prompted.messages[-1]["content"] for prompted in prompts]


def test_a_right_chunk_that_exceeds_the_limit_is_reported(tmp_path: Path, index: Index) -> None:
    long, *others = chunk_rows()
    index = index_of(
        tmp_path,
        [{**long, "text": f"{long['text']} {'More. ' * 50}"}, *others],
        tokenizer=tiny_counter(tmp_path / "base"),
    )
    rows = [question_row(room) for room in list(ROOMS)[:2]]
    step = grounded(tmp_path, index, rows, "reader", limit=200, contexts=["oracle"])
    _, log = measured(tmp_path, step)
    assert "oracle: 1 right chunk left out, longer than `limit` (200 tokens)" in log
    assert "limit leaves 1 of 2 prompts without documents" in log


def test_a_limit_that_leaves_no_document_is_an_error(tmp_path: Path, index: Index) -> None:
    step = grounded(tmp_path, index, [question_row(13)], "reader", limit=20)
    with pytest.raises(DataError, match="limit leaves no prompt with a document"):
        measured(tmp_path, step)


def test_models_that_retrieve_themselves_are_refused(tmp_path: Path, index: Index) -> None:
    step = grounded(tmp_path, index, [question_row(13)], "retrieving")
    with pytest.raises(UsageError, match="retrieves documents itself"):
        step.check()


def test_contexts_without_a_question_are_refused(tmp_path: Path, index: Index) -> None:
    step = grounded(tmp_path, index, [unanswerable_row()], contexts=["none", "oracle"])
    with pytest.raises(DataError, match="no row is a question for contexts: none, oracle"):
        measured(tmp_path, step)


def test_rows_without_an_answer_are_refused(tmp_path: Path, index: Index) -> None:
    row = {**question_row(13), "messages": question_row(13)["messages"][:1]}
    with pytest.raises(DataError, match="no expected answer"):
        measured(tmp_path, grounded(tmp_path, index, [row]))
    examine(grounded(tmp_path / "b", index, [{**row, "expected": "7"}]))


def test_requirements_name_a_context(tmp_path: Path, index: Index) -> None:
    require = {"reader.retrieved.answer": ">= 0.8", "reader.none.answer": "<= 0.5",
               "reader.oracle.quoted": ">= guesser.oracle.quoted + 0.5"}  # fmt: skip
    step = grounded(tmp_path, index, [question_row(13)], require=require)
    metrics, _ = measured(tmp_path, step)
    step.verify({"": metrics})
    strict = {"guesser.distractors.abstained": ">= 0.9"}
    with pytest.raises(RequirementError, match=r"guesser\.distractors\.abstained is 0"):
        grounded(tmp_path, index, [], require=strict).verify({"": metrics})
    wrong = {"reader.oracle.answer": ">= 0.8"}
    with pytest.raises(UsageError, match=r"no metric 'oracle\.answer'"):
        grounded(tmp_path, index, [], contexts=["none"], require=wrong).check()


def judged_by(rubric: str) -> RubricJudge:
    return RubricJudge(judge=Model(Path(), meta={"format": "critic"}), rubric=rubric, models=[],
                       rows=Dataset(Path()))  # fmt: skip


def test_a_judge_sees_the_documents_and_adds_its_metrics(tmp_path: Path, index: Index) -> None:
    """It lets answers pass that quote a document, and isn't asked what no document answers."""
    judge = critic(lambda text: json.dumps({"reason": "so", "score": 2 if "[9]" in text else 4}))
    rows = [question_row(room) for room in ROOMS] + [unanswerable_row()]
    step = grounded(tmp_path, index, rows, judge=judged_by("It quotes a document."))
    job = TestJob(tmp_path / "job", engines={**ENGINES, "critic": judge})
    metrics = step.run(job)
    scores, details = metrics.report().data()["scores"], metrics.report().data()["details"]
    assert scores["reader"]["retrieved.passed"] == 1
    assert scores["guesser"]["retrieved.passed"] == 0
    assert scores["reader"]["retrieved.score"] == 0.75
    assert "retrieved.passed" in details["headline"]
    assert len(judge.prompts) == 2 * len(ROOMS)
    assert all("docs/" in text for text in judge.prompts)
    require = {"reader.retrieved.passed": ">= 0.9"}
    grounded(tmp_path, index, [], judge=step.judge, require=require).verify({"": metrics})


def test_questions_of_one_document_count_together(tmp_path: Path, index: Index) -> None:
    rows = [question_row(room) for room in ROOMS] + [colour_row(room) for room in ROOMS]
    metrics, log = measured(tmp_path, grounded(tmp_path, index, rows, "reader"))
    assert metrics.report().data()["details"]["documents"] == 8
    assert "16 questions about 8 documents" in log
