"""`data.requests`: logs of several programs as rows, and whether they differ from training rows."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject

from finery import DataError, Dataset, Files
from finery.rows import Row
from finery.testing import TestJob, run_step
from finery_data.checks.audits import Doubt, corrected, read_audit
from finery_data.checks.drift import Drift, _out_of_fold, drift_between
from finery_data.steps.requests import Requests

CALL = {
    "id": "c1", "type": "function",
    "function": {"name": "order", "arguments": '{"id": 7, "note": "Größe"}'},
}  # fmt: skip
TOOL = {"type": "function", "function": {"name": "order", "parameters": {"type": "object"}}}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief.\n\nAlways."},
    {"role": "user", "content": "Where is 7?\r\n\t– 5 µ 😀 \u2028 “x”"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": '{"state": "sent"}'},
]
ANSWER = {"role": "assistant", "content": "It is on its way.\n"}


def served(messages: Any = None, probability: float | None = None, **more: Any) -> dict[str, Any]:
    """A line of finery's log."""
    sure = {} if probability is None else {"probability": probability}
    return {
        "finery": 1, "at": "2026-12-02T10:00:00+00:00", "status": 200, "seconds": 0.1,
        "request": {"messages": messages or TURNS, "tools": [TOOL]},
        "response": {"choices": [{"index": 0, "message": ANSWER, **sure}]}, **more,
    }  # fmt: skip


def asked(text: str, probability: float | None = None) -> dict[str, Any]:
    return served([{"role": "user", "content": text}], probability)


def read(folder: Path, *lines: Any, **settings: Any) -> Dataset:
    """The rows of a log with these lines."""
    folder.mkdir(exist_ok=True)
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    (folder / "log.jsonl").write_text(text, encoding="utf-8")
    made: Dataset = run_step(
        Requests(path=Files(["log"], [folder / "log.jsonl"]), **settings), folder / "out"
    )
    return made


# -- formats ---------------------------------------------------------------------------------------


def attribute(name: str, value: Any) -> dict[str, Any]:
    """An attribute in OTLP's JSON."""
    return {"key": name, "value": otlp(value)}


def otlp(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"kvlistValue": {"values": [attribute(*pair) for pair in value.items()]}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [otlp(one) for one in value]}}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"stringValue": value}


def spans(*given: dict[str, Any]) -> dict[str, Any]:
    """A line of a file exporter."""
    resource = {"attributes": [attribute("service.name", "shop")]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [*given]}]}]}


def span(attributes: dict[str, Any], events: Any = (), **more: Any) -> dict[str, Any]:
    return {
        "name": "chat m", "attributes": [attribute(*pair) for pair in attributes.items()],
        "events": [
            {"name": name, "attributes": [attribute(*pair) for pair in of.items()]}
            for name, of in events
        ],
        **more,
    }  # fmt: skip


INPUT = [
    {"role": "user", "parts": [{"type": "text", "content": TURNS[1]["content"]}]},
    {"role": "assistant", "parts": [
        {"type": "tool_call", "id": "c1", "name": "order",
         "arguments": {"id": 7, "note": "Größe"}},
    ]},
    {"role": "tool", "parts": [
        {"type": "tool_call_response", "id": "c1", "response": TURNS[3]["content"]},
    ]},
]  # fmt: skip
OUTPUT = [
    {
        "role": "assistant",
        "parts": [{"type": "text", "content": ANSWER["content"]}],
        "finish_reason": "stop",
    }
]
CURRENT: dict[str, Any] = {
    "gen_ai.operation.name": "chat",
    "gen_ai.input.messages": INPUT,
    "gen_ai.output.messages": OUTPUT,
    "gen_ai.system_instructions": [{"type": "text", "content": TURNS[0]["content"]}],
    "gen_ai.tool.definitions": [TOOL],
}
AS_TEXT = {name: v if isinstance(v, str) else json.dumps(v) for name, v in CURRENT.items()}
DETAILS = "gen_ai.client.inference.operation.details"
LANGFUSE = {"id": "o1", "traceId": "t1", "type": "GENERATION", "level": "DEFAULT"}
WRITTEN: dict[str, Any] = {
    "finery": served(),
    "structured": spans(span(CURRENT)),
    "as text": spans(span(AS_TEXT)),
    "scope": spans(span(AS_TEXT))["resourceSpans"][0],
    "as an SDK prints it": {"name": "chat m", "attributes": AS_TEXT},
    "event": spans(span({"gen_ai.operation.name": "chat"}, [(DETAILS, AS_TEXT)])),
    "plain": spans(
        span({**CURRENT, "gen_ai.input.messages": TURNS[1:], "gen_ai.output.messages": [ANSWER]})
    ),
    "langfuse": {**LANGFUSE, "input": {"messages": TURNS, "tools": [TOOL]}, "output": ANSWER},
    "langfuse list": {**LANGFUSE, "input": TURNS, "output": [ANSWER]},
    "langfuse text": {
        **LANGFUSE, "input": json.dumps(TURNS), "output": json.dumps({"choices": [
            {"message": ANSWER},
        ]}),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_a_conversation_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    (row,) = read(tmp_path, WRITTEN[name], answers=True)
    assert row["messages"] == [*TURNS, ANSWER]
    has_tools = name not in ("langfuse list", "langfuse text")
    assert row.get("tools") == ([TOOL] if has_tools else None)
    (prompt,) = read(tmp_path, WRITTEN[name])
    assert prompt["messages"] == TURNS


@pytest.mark.parametrize(
    "text", ['{"a": [1,  2]}', "[1, 2", '["a",  {"b": 1}]', '"quoted"', "plain"]
)
def test_texts_of_langfuse_that_look_like_json_stay_as_they_are(text: str, tmp_path: Path) -> None:
    (row,) = read(tmp_path, {**LANGFUSE, "input": text, "output": text}, answers=True)
    assert [turn["content"] for turn in row["messages"]] == [text, text]


def test_a_json_document_of_observations(tmp_path: Path) -> None:
    observations = [WRITTEN["langfuse"], {**LANGFUSE, "type": "SPAN", "input": 1, "output": 2}]
    (tmp_path / "export.json").write_text(json.dumps(observations))
    rows = run_step(Requests(path=Files(["log"], [tmp_path / "export.json"])), tmp_path / "out")
    assert [row["messages"] for row in rows] == [TURNS]
    assert rows.meta["passed"] == 1


def test_a_json_document_of_spans(tmp_path: Path) -> None:
    (tmp_path / "spans.json").write_text(json.dumps(WRITTEN["structured"]))
    rows = run_step(Requests(path=Files(["log"], [tmp_path / "spans.json"])), tmp_path / "out")
    assert [row["messages"] for row in rows] == [TURNS]


def test_failed_requests_and_other_records_are_counted(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        served(),
        {"finery": 1, "dropped": 3},
        {"finery": 1, "at": "", "status": 400, "error": "the body isn't JSON"},
        {**served(), "error": "the answer broke off"},
        spans(
            span(AS_TEXT, status={"code": "STATUS_CODE_ERROR", "message": "timeout"}),
            span({"http.request.method": "GET"}),
            span({"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "order"}),
        ),
        {**LANGFUSE, "level": "ERROR", "input": "a", "output": None},
    )
    assert len(rows) == 1
    facts = {name: rows.meta[name] for name in ("failed", "passed", "unlogged", "bad_rows")}
    assert facts == {"failed": 4, "passed": 2, "unlogged": 3, "bad_rows": 0}


BAD: dict[str, tuple[Any, str]] = {
    "newer": ({"finery": 2, "status": 200}, "version 2 of finery's log"),
    "unknown": ({"text": "hello"}, "it is no request of a known format: text"),
    "broken": ('{"finery": 1, "sta', "invalid JSON"),
    "empty": (spans(span({"gen_ai.operation.name": "chat"})), "the span has no messages"),
    "image": (
        spans(span({**CURRENT, "gen_ai.input.messages": [
            {"role": "user", "parts": [{"type": "blob", "content": "AAAA"}]},
        ]})),
        "a message has a part of the type 'blob', not text",
    ),
    "number": (served(probability="high"), "could not convert string to float: 'high'"),  # type: ignore[arg-type]
    "null": ({"finery": 1, "status": None}, "it can't be read: TypeError"),
    "turns": (served([{"role": "user", "content": "a"}] * 2), "turn 2 is 'user' after 'user'"),
    "langfuse": ({**LANGFUSE, "input": 7, "output": "a"}, "its input is a number"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cant_be_read_is_an_error_with_its_line_or_skipped(name: str, tmp_path: Path) -> None:
    line, problem = BAD[name]
    with pytest.raises(DataError) as error:
        read(tmp_path, served(), line)
    assert str(error.value.where).endswith("log.jsonl:2")
    assert problem in error.value.what
    assert "bad_rows: skip" in str(error.value.fix)
    rows = read(tmp_path, served(), line, bad_rows="skip")
    assert (len(rows), rows.meta["bad_rows"]) == (1, 1)


def test_a_log_of_failures_has_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no request was answered: 2 requests failed"):
        read(tmp_path, *[{**asked("Where?"), "error": "no room", "status": 500}] * 2)


def test_no_request_has_an_answer_where_answers_are_kept(tmp_path: Path) -> None:
    line = {**LANGFUSE, "input": "a", "output": None}
    with pytest.raises(DataError, match="the request has no answer"):
        read(tmp_path, line, answers=True)
    assert len(read(tmp_path, line)) == 1


# -- what is reviewed first ------------------------------------------------------------------------


def test_the_least_certain_request_is_first_and_its_answer_is_proposed(tmp_path: Path) -> None:
    rows = read(tmp_path, asked("a", 0.9), asked("b", 0.2), asked("c", 0.6))
    doubts = list(read_audit(rows))
    assert [(doubt.row, doubt.suspicion) for doubt in doubts] == [(2, 0.8), (3, 0.4), (1, 0.1)]
    assert doubts[0].detail == "the model answered 'It is on its way.' with a probability of 0.20"
    row = list(rows)[1]
    answered = corrected(row, doubts[:1])["messages"]
    assert answered == [*row["messages"], {"role": "assistant", "content": "It is on its way."}]


# -- whether they differ ---------------------------------------------------------------------------

NOUNS = ["card", "transfer", "refund", "invoice", "password", "account", "parcel", "order"]
VERBS = ["lost", "blocked", "late", "wrong", "missing", "unknown", "open", "closed"]
OTHERS = ["weather in Oslo", "a poem about rain", "the capital of Peru", "translate this"]


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    words = [" ".join(draw.sample(NOUNS, 3) + draw.sample(VERBS, 3)) for _ in range(count)]
    return [f"{text} {draw.randrange(10_000)}" for text in words]


def as_rows(texts: list[str]) -> list[Row]:
    return [
        {"id": str(n), "messages": [{"role": "user", "content": text}]}
        for n, text in enumerate(texts)
    ]


def compared(trained: list[str], requests: list[str], folder: Path) -> tuple[Drift, list[float]]:
    return drift_between(as_rows(trained), as_rows(requests), TestJob(folder))


def test_requests_on_other_topics_are_found(tmp_path: Path) -> None:
    requests = sentences(64, 2) + [f"{text} {n}" for n, text in enumerate(OTHERS * 4)]
    drift, unlike = compared(sentences(200, 1), requests, tmp_path)
    assert drift.differs
    assert 0.02 < drift.share < 0.25
    assert set(drift.words) <= set(" ".join(OTHERS).lower().split())
    assert min(unlike[64:]) > sum(unlike[:64]) / 64


def test_equal_rows_and_masked_ones_dont_differ(tmp_path: Path) -> None:
    texts = sentences(100, 1)
    assert compared(texts, texts, tmp_path)[0].p > 0.05
    trained = [f"{text} ann{n}@firma.de" for n, text in enumerate(texts)]
    requests = [f"{text} [email]" for text in sentences(100, 2)]
    drift = compared(trained, requests, tmp_path)[0]
    assert (drift.differs, drift.words) == (False, {})


def test_repeats_of_one_request_count_once(tmp_path: Path) -> None:
    requests = sentences(60, 2) + ["weather in Oslo"] * 200
    drift = compared(sentences(150, 1), requests, tmp_path)[0]
    assert drift.requests < 62
    assert not drift.differs


@pytest.mark.parametrize(("trained", "requests"), [(["a b"], ["a b"]), (["?"], ["!"] * 3)])
def test_rows_that_say_nothing(trained: list[str], requests: list[str], tmp_path: Path) -> None:
    assert not compared(trained, requests, tmp_path)[0].differs


@pytest.mark.slow
def test_false_alarms_are_as_rare_as_the_level_says(tmp_path: Path) -> None:
    """Exact, whatever the texts: of 100 draws, more than 11 have a probability of 0.5 %."""
    pool = sentences(4_000, 3) + [f"{text} {n}" for n, text in enumerate(OTHERS * 50)]
    alarms = 0
    for seed in range(100):
        texts = random.Random(seed).sample(pool, 90)
        alarms += compared(texts[:60], texts[60:], tmp_path)[0].differs
    assert alarms <= 11


def test_the_order_of_rows_doesnt_matter(tmp_path: Path) -> None:
    """The folds must not depend on which side a text is of, or the p-value isn't exact."""
    trained, requests = sentences(60, 1), sentences(20, 2) + [f"{OTHERS[n]} {n}" for n in range(4)]
    drift, unlike = compared(trained, requests, tmp_path)
    again, reverse = compared(trained[::-1], requests[::-1], tmp_path)
    assert (again.auc, again.p, reverse[::-1]) == (drift.auc, drift.p, unlike)


def test_a_product_of_matrices_trains_the_regression_anew() -> None:
    import numpy as np
    from sklearn.kernel_ridge import KernelRidge

    from finery_data.checks.suspects import folds_of

    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(56, 9))
    fold = np.array(folds_of([0] * 56, range(56), 5))
    for _ in range(3):
        labels = generator.permutation([0.0] * 34 + [1.0] * 22) - 22 / 56
        by_hand = np.zeros(56)
        for one in range(5):
            model = KernelRidge(alpha=1.0).fit(vectors[fold != one], labels[fold != one])
            by_hand[fold == one] = model.predict(vectors[fold == one])
        assert _out_of_fold(vectors @ vectors.T) @ labels == pytest.approx(by_hand)


def test_a_note_says_that_requests_differ(project: MakeProject) -> None:
    trained = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]}
        for text in sentences(80, 1)
    ]
    made = project({
        "recipe.yaml": "finery: 1\nname: t\ndata:\n"
        "  rows: {use: data.file, path: rows.jsonl}\n"
        "  requests: {use: data.requests, path: log.jsonl, against: rows}\n",
        "rows.jsonl": "".join(json.dumps(row) + "\n" for row in trained),
        "log.jsonl": "".join(
            json.dumps(asked(f"{text} {n}")) + "\n" for n, text in enumerate(OTHERS * 5)
        ),
    })  # fmt: skip
    assert made.run("build").code == 0
    checked = made.run("check")
    said = " ".join((checked.out + checked.err).split())
    assert re.search(r"the requests of requests differ from the rows in `against`, at least", said)
    assert "fix: finery review requests" in said
    doubts: list[Doubt] = list(read_audit(Dataset(made.folder / "build/t/requests")))
    assert doubts[0].suspicion > 0.5  # without a probability, the most unlike request is first


def test_rows_that_requests_are_compared_with_arent_their_origin(project: MakeProject) -> None:
    line = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    made = project({
        "recipe.yaml": "finery: 1\nname: t\ndata:\n"
        "  rows: {use: data.file, path: rows.jsonl}\n"
        "  requests: {use: data.requests, path: log.jsonl, against: rows, answers: true}\n"
        "models:\n  linear: {use: baseline.linear, rows: rows}\n"
        "evaluate:\n  test: {use: eval.exact, models: linear, rows: requests}\n",
        "rows.jsonl": json.dumps(line) + "\n",
        "log.jsonl": json.dumps(asked("c")) + "\n",
    })  # fmt: skip
    checked = made.run("check")
    assert checked.code == 0, checked.err
    assert "same rows" not in " ".join((checked.out + checked.err).split())
