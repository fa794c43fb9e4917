"""eval.retrieval and eval.grounded on a real index, with engines that read their prompts."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from asking import (
    ENGINES,
    ROOMS,
    Guesser,
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
from rich.console import Console
from tiny_llama import tiny_counter

from finery import (
    DataError,
    Dataset,
    Detail,
    Index,
    Metrics,
    Model,
    OptionalFiles,
    Output,
    RequirementError,
    UsageError,
)
from finery.artifact.manifest import manifest
from finery.rows import Row
from finery.testing import TestJob, dataset
from finery.testing.given import Given
from finery_eval.view.metrics import MetricsView
from finery_judge.rubric import RubricJudge
from finery_retrieve.evaluate.grounded.step import Grounded
from finery_retrieve.evaluate.retrieval.step import Retrieval
from finery_retrieve.index.context import UNKNOWN, Lookup
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
    report = metrics.report()
    assert report["scores"]["index"] == {
        "recall@2": 1.0, "recall@1": 1.0, "mrr@2": 1.0, "ndcg@2": 1.0,
    }  # fmt: skip
    low, high = report["intervals"]["index"]["recall@1"]
    assert low < 0.7
    assert high == 1
    assert [line["rank"] for line in metrics.predictions()] == [1] * len(ROOMS)


def test_a_missed_question_is_listed_with_its_place(tmp_path: Path, index: Index) -> None:
    row = question_row(13)
    row["messages"][0]["content"] = "Which zebra is it?"
    metrics, _ = measured(tmp_path, retrieval(tmp_path, [index], [row, question_row(14)]))
    missed, _ = metrics.predictions()
    assert missed["correct"] is False
    assert missed["rank"] is None
    assert missed["expected"].startswith("docs/13.md > Room 13, line 1: ")
    assert missed["answer"] == ""
    assert metrics.report()["scores"]["index"]["recall@10"] == 0.5


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
    report = metrics.report()
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


def test_questions_that_only_name_a_chunk_are_not_missed_in_other_chunks(
    tmp_path: Path, index: Index
) -> None:
    """The other index has each answer, in chunks with other ids."""
    other = index_of(tmp_path, [{**row, "id": f"o{i}"} for i, row in enumerate(chunk_rows())], "o")
    rows = [{**question_row(room), "quote": None} for room in ROOMS]
    with pytest.raises(DataError, match="can't be compared between the indices") as error:
        measured(tmp_path, retrieval(tmp_path, [index, other], rows))
    assert "o has 0 of the 1 chunk that the row names, and the row has no quote" in str(error.value)
    assert "`quote`" in str(error.value.fix)


def test_questions_of_two_chunks_count_the_same_in_all_indices(
    tmp_path: Path, index: Index
) -> None:
    """Where only one index has both chunks, the one with the quote counts in each."""
    other = index_of(tmp_path, [{**row, "id": f"o{i}"} for i, row in enumerate(chunk_rows())], "o")
    rows = [
        {**question_row(room), "parents": [chunk["id"] for chunk in chunk_rows([room])]}
        for room in ROOMS
    ]
    step = retrieval(tmp_path, [index, other], rows, k=[1])
    metrics, log = measured(tmp_path, step)
    scores = metrics.report()["scores"]
    assert scores["index"]["recall@1"] == scores["o"]["recall@1"] == 1
    assert "8 questions of several chunks, which not all indices have" in log


def test_overlapping_chunks_are_as_good_as_the_right_one(tmp_path: Path) -> None:
    chunks = chunk_rows()
    again = [{**chunk, "id": f"again{i}", "text": f"{chunk['text']} And again: {chunk['text']}"}
             for i, chunk in enumerate(chunks)]  # fmt: skip
    index = index_of(tmp_path, [*again, *chunks])
    metrics, _ = measured(tmp_path, retrieval(tmp_path, [index], [question_row(13)], k=[1]))
    assert metrics.report()["scores"]["index"]["recall@1"] == 1


def test_a_question_of_two_chunks_needs_both(tmp_path: Path, index: Index) -> None:
    one, two = chunk_rows([13])
    row = {**question_row(13), "parents": [one["id"], two["id"]]}
    metrics, _ = measured(tmp_path, retrieval(tmp_path, [index], [row], k=[1, 16]))
    scores = metrics.report()["scores"]["index"]
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


def test_errors_of_requirements_speak_of_indices(tmp_path: Path, index: Index) -> None:
    rows = [question_row(13)]
    given = retrieval(tmp_path, [index], rows, k=[1, 5], require={"index.recall@2": ">= 0.5"})
    with pytest.raises(UsageError, match="no metric 'recall@2'") as unknown:
        given.check()
    assert "add them to `k`, which is [1, 5]" in str(unknown.value.fix)
    given = retrieval(tmp_path, [index], rows, require={"other.recall@10": ">= 0.5"})
    with pytest.raises(UsageError, match="'other' is not one of the step's indices"):
        given.check()
    row = question_row(13)
    row["messages"][0]["content"] = "Which zebra is it?"
    given = retrieval(tmp_path, [index], [row], k=[1], require={"index.recall@1": ">= 0.5"})
    metrics, _ = measured(tmp_path, given)
    with pytest.raises(RequirementError) as failed:
        given.verify({"": metrics})
    assert str(failed.value.fix).startswith("improve the index")
    assert "seed" not in metrics.report()["details"]["intervals_cover"]


def test_the_headline_is_a_recall_that_a_random_order_doesnt_have(tmp_path: Path) -> None:
    index = index_of(tmp_path, chunk_rows()[:10])
    metrics, log = measured(tmp_path, retrieval(tmp_path, [index], [question_row(13)]))
    headline = metrics.report()["details"]["headline"]
    assert (headline[0], headline[-1]) == ("recall@5", "recall@10")
    assert "recall@10 says nothing about the order of the chunks: index has 10 chunks" in log


@pytest.mark.parametrize("given", [{"k": [0]}, {"indices": []}])
def test_impossible_settings_are_refused(
    tmp_path: Path, index: Index, given: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        Retrieval(**{"indices": [index], "rows": dataset(tmp_path, []), **given}).check()


# eval.grounded


def test_a_reader_needs_the_context_and_a_guesser_doesnt(tmp_path: Path, index: Index) -> None:
    rows = [question_row(room) for room in ROOMS]
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, rows))
    scores = metrics.report()["scores"]
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
    (pair,) = metrics.report()["details"]["pairs"]
    assert (pair["model"], pair["baseline"]) == ("guesser", "reader")
    assert pair["metrics"]["none.answer"]["difference"] == 1
    assert pair["metrics"]["none.answer"]["p_value"] < 0.01


def test_tables_show_each_context_and_their_differences(tmp_path: Path, index: Index) -> None:
    rows = [question_row(room) for room in ROOMS]
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, rows, "reader"))
    contexts, between, citations, _ = metrics.report()["details"]["tables"]
    assert [row[:4] for row in contexts["rows"]] == [
        ["reader", "none", 0.0, "0.0 to 32.4"], ["reader", "oracle", 1.0, "67.6 to 100.0"],
        ["reader", "retrieved", 1.0, "67.6 to 100.0"], ["reader", "distractors", None, None],
    ]  # fmt: skip
    assert contexts["columns"][4:] == ["cited", "quoted", "answered", "abstained"]
    assert [row[6:] for row in contexts["rows"]] == [
        [None, None], [1.0, None], [1.0, None], [None, 1.0],
    ]  # fmt: skip
    assert [row[:3] for row in between["rows"]] == [
        ["reader", "retrieved − none", 1.0], ["reader", "oracle − retrieved", 0.0],
    ]  # fmt: skip
    assert citations["rows"] == [
        ["reader", "oracle", 8, 8, 0, 8, 0], ["reader", "retrieved", 8, 8, 0, 8, 0],
    ]  # fmt: skip


def test_predictions_have_the_answer_with_each_context(tmp_path: Path, index: Index) -> None:
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, [question_row(13)], "guesser"))
    lines = {line["context"]: line for line in metrics.predictions()}
    assert list(lines) == ["none", "oracle", "retrieved", "distractors"]
    assert [line["correct"] for line in lines.values()] == [True, True, True, False]
    assert lines["distractors"]["expected"] == UNKNOWN
    assert lines["distractors"]["error"] == (
        "answers, but the documents don't contain the answer; [9] is the number of no document"
    )
    assert lines["none"]["retrieved"] == []
    right = question_row(13)["parents"][0]
    assert [hit["id"] for hit in lines["oracle"]["retrieved"]] == [right]
    assert right in [hit["id"] for hit in lines["retrieved"]["retrieved"]]
    assert right not in [hit["id"] for hit in lines["distractors"]["retrieved"]]


def test_questions_that_no_document_answers_must_be_declined(tmp_path: Path, index: Index) -> None:
    rows = [question_row(13), unanswerable_row()]
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, rows))
    scores = metrics.report()["scores"]
    assert scores["reader"]["retrieved.abstained"] == 1
    assert scores["guesser"]["retrieved.abstained"] == 0
    assert scores["reader"]["retrieved.answer"] == 1  # of the other question alone


def test_abstaining_where_the_context_answers_is_measured(tmp_path: Path, index: Index) -> None:
    """The colour of a room is nothing that the reader knows to read."""
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, [colour_row(13)], "reader"))
    scores = metrics.report()["scores"]["reader"]
    assert scores["oracle.answered"] == scores["oracle.answer"] == scores["oracle.cited"] == 0
    line = [line for line in metrics.predictions() if line["context"] == "oracle"]
    assert line[0]["error"] == "doesn't answer; the answer is in the context"


def test_expected_texts_are_judged_where_rows_have_them(tmp_path: Path, index: Index) -> None:
    rows = [question_row(13, expected=[[str(number(13)), "thirteen"]]),
            question_row(14, expected=["something else"])]  # fmt: skip
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, rows, "reader", contexts=["oracle"]))
    assert metrics.report()["scores"]["reader"]["oracle.answer"] == 0.5
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
    grounded(tmp_path / "b", index, [{**row, "expected": "7"}]).check_rows(TestJob())


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


def as_output(metrics: Metrics) -> Output:
    return Output("grounded", metrics, manifest("Metrics", {"rows": 1}, {}))


def test_show_fits_80_columns_and_names_the_context_of_a_wrong_answer(
    tmp_path: Path, index: Index
) -> None:
    rows = [question_row(room) for room in ROOMS]
    metrics, _ = measured(tmp_path, grounded(tmp_path, index, rows, "reader", "guesser"))
    out = io.StringIO()
    MetricsView().print(Console(file=out, width=80), as_output(metrics), Detail(model="guesser"))
    lines = out.getvalue().splitlines()
    (place,) = {line.partition(", ")[2] for line in lines if line.startswith("row ")}
    assert place == "context: distractors"
    assert any("distractors" in line and "guesser" in line for line in lines)  # not folded


def test_show_names_the_index_with_missed_questions(tmp_path: Path, index: Index) -> None:
    """The best index, which is shown, misses none."""
    worse = index_of(tmp_path, chunk_rows(list(ROOMS)[1:]), "worse")
    rows = [question_row(room) for room in ROOMS]
    metrics, _ = measured(tmp_path, retrieval(tmp_path, [index, worse], rows))
    out = io.StringIO()
    MetricsView().print(Console(file=out, width=200), as_output(metrics), Detail())
    assert "those of worse: finery show grounded --model worse" in out.getvalue()


def test_diff_pairs_answers_by_context(tmp_path: Path, index: Index) -> None:
    """All answers of two contexts flip; each metric is about its own context."""
    rows = [question_row(13), question_row(14)]
    before, after = (
        measured(tmp_path / name, grounded(tmp_path / name, index, rows, name))[0]
        for name in ("guesser", "reader")
    )
    for metrics in (before, after):
        text = (metrics.path / "metrics.json").read_text().replace("guesser", "reader")
        (metrics.path / "metrics.json").write_text(text)
        lines = (metrics.path / "predictions.jsonl").read_text()
        (metrics.path / "predictions.jsonl").write_text(lines.replace('"guesser"', '"reader"'))
    compared = MetricsView().difference(as_output(before), as_output(after))["models"]["reader"]
    assert compared["paired"] == 8
    assert {flip["context"] for flip in compared["gained"]} == {"distractors"}
    assert {flip["context"] for flip in compared["lost"]} == {"none"}
    tests = {metric: of["test"] for metric, of in compared["metrics"].items()}
    assert (tests["none.answer"]["difference"], tests["none.answer"]["p_value"]) == (-1, 0.5)
    assert (tests["retrieved.answer"]["difference"], tests["retrieved.answer"]["p_value"]) == (0, 1)


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
    scores, details = metrics.report()["scores"], metrics.report()["details"]
    assert scores["reader"]["retrieved.passed"] == 1
    assert scores["guesser"]["retrieved.passed"] == 0
    assert scores["reader"]["retrieved.score"] == 0.75
    assert "retrieved.passed" in details["headline"]
    assert len(judge.asked) == 2 * len(ROOMS)
    assert all("docs/" in text for text in judge.asked)
    require = {"reader.retrieved.passed": ">= 0.9"}
    grounded(tmp_path, index, [], judge=step.judge, require=require).verify({"": metrics})


def test_decisions_on_the_questions_calibrate_the_judge(tmp_path: Path, index: Index) -> None:
    """The judge lets answers about even rooms pass, and so do people."""
    rows = [question_row(room) for room in ROOMS]
    file = tmp_path / "decisions.jsonl"
    lines = [{"id": row["id"], "do": ("accept", "reject")[i % 2]} for i, row in enumerate(rows)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    judge = judged_by("It is right.")
    judge.human = OptionalFiles([file.name], [file])

    def score(text: str) -> str:
        (room,) = re.findall(r"number of Room (\d+)\?", text)
        return json.dumps({"reason": "so", "score": 2 if int(room) % 2 else 4})

    step, engine = grounded(tmp_path, index, rows, judge=judge), critic(score)
    job = TestJob(tmp_path / "job", engines={**ENGINES, "critic": engine})
    metrics = step.run(job)
    more = metrics.report()["details"]["more"]
    assert more["judge"]["kappa"]["value"] == 1
    assert more["reader"]["retrieved.corrected"]["value"] == 0.5


def test_rows_that_the_judge_cant_read_are_refused_before_any_answer(
    tmp_path: Path, index: Index
) -> None:
    judge = judged_by("It is right.")
    judge.reference = True
    row = question_row(13)
    row["messages"].pop()
    step = grounded(tmp_path, index, [{**row, "expected": ["110866"]}], "reader", judge=judge)
    Reader.prompts.clear()
    with pytest.raises(DataError, match="no answer that the judge could see"):
        measured(tmp_path, step)
    assert Reader.prompts == []


@pytest.mark.parametrize(("given", "what"), [
    ({"judge": Given(kind="Model")}, "doesn't judge answers one by one"),
    ({"judge": judged_by("x"), "contexts": ["oracle"]}, "`contexts` lacks"),
])  # fmt: skip
def test_a_judge_that_cant_judge_is_refused(
    tmp_path: Path, index: Index, given: dict[str, Any], what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        grounded(tmp_path, index, [], **given).check()


def test_questions_of_one_document_count_together(tmp_path: Path, index: Index) -> None:
    rows = [question_row(room) for room in ROOMS] + [colour_row(room) for room in ROOMS]
    metrics, log = measured(tmp_path, grounded(tmp_path, index, rows, "reader"))
    assert metrics.report()["details"]["documents"] == 8
    assert "16 questions about 8 documents" in log


def test_the_same_answers_give_the_same_bytes(tmp_path: Path, index: Index) -> None:
    rows = [question_row(room) for room in ROOMS]
    files = []
    for name in ("a", "b"):
        metrics, _ = measured(tmp_path / name, grounded(tmp_path / name, index, rows, "guesser"))
        files.append(
            [(metrics.path / f).read_bytes() for f in ("metrics.json", "predictions.jsonl")]
        )
    assert files[0] == files[1]
    assert json.loads(files[0][0])["rows"] == len(ROOMS)
    assert Guesser.prompts
