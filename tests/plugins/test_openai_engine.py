"""Models behind an API, asked through the openai library: a server that misbehaves, on loopback."""

import json
import re
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from conftest import MakeProject, Project
from hostile_server import (
    Body,
    Reply,
    Server,
    content_of,
    echo,
    failure,
    killed_midway,
    said,
    serving,
)
from needs import need

from finery import Completion, FineryError, Job, Model, Request, StepError, UsageError
from finery.advanced import Budget
from finery.builder.keys import short
from finery.inference.records import MemoryRecords
from finery.rows import Conversation
from finery.testing import TestJob
from finery_openai.model import OpenaiModel

need("openai")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a tenth of the time before retries."""
    monkeypatch.setattr("finery_openai.limits.FIRST_WAIT", 0.05)


def model(server: Server, **settings: Any) -> Model:
    named = {"model": "m", "base_url": server.url, "api_key": None, **settings}
    made = OpenaiModel(**named).run(TestJob(seed=None))
    assert isinstance(made, Model)
    return made


def conversation(text: str) -> Conversation:
    return [{"role": "user", "content": text}]


def ask(
    job: Job, asked: Model, *texts: str, **sampling: Any
) -> dict[str, Completion | FineryError]:
    """Text → its answer, or the error; each exactly once."""
    requests = [Request(conversation(text)) for text in texts]
    answers = list(job.engine(asked).stream(requests, **sampling))
    found = {texts[index]: answer for index, answer in answers}
    assert len(found) == len(answers) == len(texts)
    return found


def questions(count: int) -> list[str]:
    return [f"question {i}" for i in range(count)]


def logged(job: TestJob) -> list[str]:
    return [e["message"] for e in job.events if e["event"] == "log"]


# -- what is asked -------------------------------------------------------------------------------


def test_requests_say_all_there_is_to_say(server: Server) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    messages: Conversation = [
        {"role": "assistant", "tool_calls": [call], "weight": 1},
        {"role": "tool", "tool_call_id": "call_0", "content": "one"},
    ]
    made = model(server, extra={"reasoning_effort": "low", "seed": None})
    engine = TestJob().engine(made)
    asked = [Request(messages, tools=tools, attempt=2)]
    list(engine.stream(asked, max_tokens=9, temperature=0.5, top_p=0.9, stop=["x"], seed=3))
    sent_call = {
        "id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'},
    }  # fmt: skip
    assert server.calls == [
        {
            "model": "m", "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": ["x"],
            "reasoning_effort": "low", "tools": tools,
            "messages": [
                {"role": "assistant", "content": None, "tool_calls": [sent_call]}, messages[1],
            ],
        }
    ]  # fmt: skip


def test_answers_tell_how_they_ended(server: Server) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    server.script += [
        Reply("a", finish="length"), Reply(None, finish="tool_calls", tool_calls=calls),
        Reply("b", finish="eos", usage=None),
    ]  # fmt: skip
    found = ask(TestJob(), model(server, concurrency=1), "1", "2", "3")
    answers = [a for a in found.values() if isinstance(a, Completion)]
    assert [(a.text, a.finish_reason) for a in answers] == [
        ("a", "length"), ("", "tool_calls"), ("b", "stop"),
    ]  # fmt: skip
    assert answers[1].tool_calls == calls
    assert (answers[0].prompt_tokens, answers[0].completion_tokens) == (10, 5)
    assert answers[2].completion_tokens == 1  # estimated


@pytest.mark.parametrize(("reply", "text", "reasoning"), [
    (Reply("Yes.", thinking={"reasoning_content": "Hm."}), "Yes.", "Hm."),
    (Reply("<think>\nHm.\n</think>\n\nYes."), "Yes.", "Hm."),
    (Reply("Hm.\n</think>\n\nYes."), "Yes.", "Hm."),
    (Reply("<think>Hm, or", finish="length"), "", "Hm, or"),
    (Reply("<think>a</think>b", thinking={"reasoning": "Hm."}), "<think>a</think>b", "Hm."),
])  # fmt: skip
def test_thinking_is_no_part_of_the_text(
    server: Server, reply: Reply, text: str, reasoning: str | None
) -> None:
    server.script.append(reply)
    records, asked = MemoryRecords(), model(server)
    (answer,) = ask(TestJob(records=records), asked, "q").values()
    assert isinstance(answer, Completion)
    assert (answer.text, answer.reasoning) == (text, reasoning)
    assert answer.finish_reason == reply.finish
    assert ask(TestJob(records=records), asked, "q") == {"q": answer}
    assert len(server.calls) == 1


def called(arguments: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}, **more}


@pytest.mark.parametrize(("calls", "expected"), [
    ([called('{"a": "ü"}', id="x")], [called('{"a": "ü"}', id="x")]),
    ([called({"a": "ü"}), called("")],
     [called('{"a": "ü"}', id="call_0"), called("", id="call_1")]),
])  # fmt: skip
def test_calls_are_in_openai_shape(server: Server, calls: Any, expected: Any) -> None:
    server.script.append(Reply(None, tool_calls=calls, finish="tool_calls"))
    (answer,) = ask(TestJob(), model(server), "q").values()
    assert isinstance(answer, Completion)
    assert (answer.tool_calls, answer.call_error) == (expected, None)
    assert (answer.text, answer.finish_reason) == ("", "tool_calls")


@pytest.mark.parametrize(("arguments", "reason"), [
    ('{"a": 1', "the arguments of the call of 'f' are JSON that ends too early"),
    ("[" * 100_000, "the arguments of the call of 'f' are JSON nested too deeply"),
])  # fmt: skip
def test_a_malformed_call_is_text_with_the_reason(
    server: Server, arguments: str, reason: str
) -> None:
    server.script.append(Reply("So:", tool_calls=[called(arguments)], finish="tool_calls"))
    (answer,) = ask(TestJob(), model(server), "q").values()
    assert isinstance(answer, Completion)
    assert (answer.tool_calls, answer.finish_reason) == (None, "stop")
    assert answer.text == f"So:\nf({arguments})"
    assert reason in str(answer.call_error)


def test_a_schema_goes_along(server: Server) -> None:
    schema = {
        "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
        "additionalProperties": False,
    }  # fmt: skip
    ask(TestJob(), model(server), "q", schema=schema)
    ask(TestJob(), model(server), "q", schema={"type": "object"})
    formats = [call["response_format"]["json_schema"] for call in server.calls]
    assert formats[0] == {"name": "answer", "schema": schema, "strict": True}
    assert formats[1]["strict"] is False


def test_a_server_that_cannot_constrain_is_asked_without(server: Server) -> None:
    server.answer = lambda body: (
        failure(422, "Unsupported fields in the request: {'response_format'}")
        if "response_format" in body
        else echo(body)
    )
    job = TestJob()
    engine = job.engine(model(server, concurrency=2))
    assert engine.constrains
    found = [a for _, a in engine.stream(map(Request, map(conversation, "abcd")), schema={})]
    assert all(isinstance(answer, Completion) for answer in found)
    assert not engine.constrains
    assert logged(job) == ["m: the server can't constrain answers to a JSON Schema; sending none"]
    assert len(server.calls) <= 4 + 2
    for held in (engine, TestJob().engine(model(server))):  # known before, and found out
        with pytest.raises(StepError, match=r"can't (be held|hold answers) to a JSON Schema"):
            held.generate([conversation("e")], schema={}, strict=True)


def test_a_server_may_call_the_limit_otherwise_and_know_no_seed(server: Server) -> None:
    def picky(body: Body) -> str | Reply:
        if "max_tokens" in body:
            return failure(400, "'max_tokens' is not supported: use 'max_completion_tokens'")
        return failure(400, "Unknown parameter: 'seed'.") if "seed" in body else echo(body)

    server.answer = picky
    job = TestJob()
    assert isinstance(ask(job, model(server), "a", max_tokens=7)["a"], Completion)
    assert server.calls[-1]["max_completion_tokens"] == 7
    assert len(logged(job)) == 2


# -- what goes wrong -----------------------------------------------------------------------------


def saying(content: Any, **message: Any) -> Reply:
    """An answer with any content."""
    choice = {"message": {"content": content, **message}}
    return Reply(raw=json.dumps({"choices": [choice]}).encode())


def drip() -> Iterator[bytes]:
    """A space now and then, for half a minute."""
    for _ in range(300):
        yield b" "
        time.sleep(0.1)


def endless() -> Iterator[bytes]:
    """More than anybody can keep; a little slower than it is read."""
    yield b'{"x": "'
    for _ in range(5000):
        yield b"x" * 2**20


def bomb() -> Iterator[bytes]:
    """A gigabyte in a megabyte."""
    packer = zlib.compressobj(wbits=31)
    for _ in range(1000):
        yield packer.compress(b" " * 2**20)
    yield packer.flush()


PASSING = {
    "busy": failure(429, "slow down"),
    "broken": failure(500),
    "cut within": Reply("half of this is lost", cut="within"),
    "malformed": Reply(raw=b'{"choices": [{"mess'),
    "wrong types": Reply(raw=b'{"choices": [{"message": 1}]}'),
    "too late": Reply("late", delay=3.0),
    "no text": saying([{"type": "text", "text": None}]),
    "a call without a name": saying("", tool_calls=[{"function": {"arguments": "{}"}}]),
    "absurd usage": Reply("x", usage=(5, 10**12)),
    "an error in a choice": Reply("half", finish="error"),
    "nested": Reply(raw=b'{"error": ' + b"[" * 99_999 + b"]" * 99_999 + b"}"),
    "damaged": Reply(raw=b"no gzip", headers={"Content-Encoding": "gzip"}),
    "dripping": Reply(stream=drip),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_asked_again(server: Server, name: str) -> None:
    server.script.append(PASSING[name])
    found = ask(TestJob(), model(server, timeout=1.0), *questions(5))
    assert all(isinstance(a, Completion) and a.text == f"re: {q}" for q, a in found.items())
    assert sorted(server.counts().values()) == [1, 1, 1, 1, 2]


GZIP = {"Content-Encoding": "gzip"}


@pytest.mark.parametrize(
    "reply",
    [
        Reply(stream=endless),
        Reply(stream=bomb, headers=GZIP),
        Reply(status=400, stream=bomb, headers=GZIP),
    ],
)
def test_what_is_too_large_is_not_read(server: Server, reply: Reply) -> None:
    server.script.append(reply)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = ask(TestJob(), model(server, concurrency=1), "a", "b")
    assert "sent an answer of more than 8 MiB" in str(found["a"])
    assert isinstance(found["b"], Completion)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("status", [301, 303, 307, 308])
def test_no_prompt_goes_to_a_server_that_the_recipe_does_not_name(
    server: Server, status: int
) -> None:
    with serving() as other:
        location = {"Location": f"{other.url}/chat/completions?key=5ecret"}
        server.answer = lambda body: Reply(status=status, raw=b"", headers=location)
        with pytest.raises(FineryError) as raised:
            raise ask(TestJob(), model(server), "a")["a"]  # type: ignore[misc]
        assert other.calls == []
    if status > 303:
        assert f"redirects to {other.url.removesuffix('/v1')}, but" in raised.value.what
        assert server.url.removesuffix("/v1") in raised.value.what
        assert (raised.value.fix or "").endswith(f"base_url: {other.url}")
    assert "5ecret" not in str(raised.value)


def test_a_server_may_redirect_to_itself(server: Server) -> None:
    server.script.append(Reply(status=307, raw=b"", headers={"Location": "/elsewhere"}))
    assert isinstance(ask(TestJob(), model(server), "a")["a"], Completion)
    assert len(server.calls) == 2
    server.answer = lambda body: Reply(status=307, raw=b"", headers={"Location": "/again"})
    with pytest.raises(StepError, match="redirects without end"):
        ask(TestJob(), model(server), "a b")


def test_all_at_once(server: Server) -> None:
    """Every row is accounted for, none twice, whatever the server does."""
    server.script += [*PASSING.values(), Reply(empty=True), Reply(refusal="no"), failure(400)]
    server.script += list(PASSING.values())
    job, texts, asked = TestJob(), questions(200), model(server, timeout=2.0, concurrency=32)
    found = ask(job, asked, *texts)
    failed = {text for text, answer in found.items() if isinstance(answer, FineryError)}
    assert len(failed) == 3
    good = {text: a for text, a in found.items() if isinstance(a, Completion)}
    assert {text: a.text for text, a in good.items()} == {t: f"re: {t}" for t in good}
    assert len(server.calls) == 200 + 2 * len(PASSING)
    before = len(server.calls)
    ask(job, asked, *texts)
    assert {said(call) for call in server.calls[before:]} == failed
    assert len(server.calls) == before + 3


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(empty=True), "an answer with empty `choices`"),
        (Reply(refusal="I can't help with that"), "the model refused"),
        (Reply("part", finish="content_filter"), "content filter withheld"),
        (failure(400, "context too long"), r"rejected the request \(400: context too long\)"),
    ],
)
def test_what_does_not_pass_is_the_rows_error(server: Server, reply: Reply, message: str) -> None:
    server.script.append(reply)
    found = ask(TestJob(), model(server, concurrency=1), "a:\n\nb", "b")
    assert isinstance(found["b"], Completion)
    with pytest.raises(StepError, match=message) as raised:
        raise found["a:\n\nb"]  # type: ignore[misc]
    assert raised.value.details[-1] == "prompt: a: b"
    assert len(server.calls) == 2


def test_retries_end(server: Server) -> None:
    server.answer = lambda body: failure(500, "oh") if said(body) == "a" else echo(body)
    found = ask(TestJob(), model(server, retries=2), "a", "b")
    assert server.counts() == {"a": 3, "b": 1}
    assert "answered 500: oh (3 times)" in str(found["a"])


def test_a_server_that_asks_to_wait_is_left_alone(server: Server) -> None:
    server.script.append(failure(429, retry_after="1"))
    server.answer = lambda body: Reply("x", delay=0.05)
    ask(TestJob(), model(server, concurrency=2), *questions(6))
    gaps = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
    assert max(gaps) >= 0.85
    assert len(server.calls) == 7


def test_a_busy_server_costs_no_retries_while_it_answers_others(server: Server) -> None:
    """It takes one at a time: without patience the last of eight would be given up."""

    def one_at_a_time(body: Body) -> Reply:
        busy = server.flying > 1
        return failure(429, retry_after="0.02") if busy else Reply(echo(body), delay=0.005)

    server.answer = one_at_a_time
    found = ask(TestJob(), model(server, retries=4, concurrency=8), *questions(16))
    assert all(isinstance(answer, Completion) for answer in found.values())


def test_a_server_that_asks_to_wait_for_hours_ends_the_step(server: Server) -> None:
    server.script += [Reply("paid for"), failure(429, "daily limit", retry_after="7200")]
    job = TestJob()
    with pytest.raises(StepError, match="demands a wait of 7,200 s"):
        ask(job, model(server, concurrency=1), *questions(50))
    assert len(server.calls) == 2
    assert job.usage.calls == 1


@pytest.mark.parametrize(
    ("reply", "kind", "message", "fix"),
    [
        (
            failure(401, "Incorrect API key"),
            UsageError,
            "denied access",
            "check the key in KEY",
        ),
        (failure(404, "no model"), UsageError, "has no model 'n'", "one of: m"),
        (failure(400, "x", "model_not_found"), UsageError, "has no model 'n'", "one of: m"),
        (failure(429, "pay", "insufficient_quota"), StepError, "out of credit", "add credit"),
    ],
)
def test_what_every_row_would_meet_stops_at_once(
    server: Server, reply: Reply, kind: type[FineryError], message: str, fix: str
) -> None:
    server.script.extend([reply] * 100)
    asked, job = model(server, api_key="KEY", model="n"), TestJob(secrets={"KEY": "secret"})
    with pytest.raises(kind, match=message) as raised:
        ask(job, asked, *questions(500))
    assert fix in (raised.value.fix or "")
    assert len(server.calls) <= 21
    assert set(server.keys) == {"Bearer secret"}


def test_what_a_server_denies_once_it_answered_others_is_the_rows_error(server: Server) -> None:
    denied = failure(403, "not for you")
    server.answer = lambda body: denied if said(body).startswith("bad") else echo(body)
    texts = ["bad 0", "bad 1", "good", *(f"bad {i}" for i in range(2, 9)), "good too"]
    found = ask(TestJob(), model(server, concurrency=1), *texts)
    failed = {text for text, answer in found.items() if isinstance(answer, FineryError)}
    assert failed == {text for text in texts if text.startswith("bad")}
    assert isinstance(found["bad 8"], StepError)
    assert len(server.calls) == len(texts)


KEY = "sk-a-secret/of-this-test"
AS_JSON = json.dumps([KEY]).replace("/", r"\/").replace("k", r"\u006b")


def escaped(reply: Reply) -> Reply:
    """The same with the key as JSON may write it."""
    raw = content_of(reply, {}) if reply.raw is None else reply.raw
    spelled = KEY.replace("/", r"\/").replace("s", r"\u0073")
    return replace(reply, raw=raw.replace(KEY.encode(), spelled.encode()), error=None)


@pytest.mark.parametrize(
    "reply",
    [
        failure(401, f"Incorrect API key: {KEY}"),
        failure(401, "x" * 280 + KEY),  # cut within the key
        failure(400, f"bad request by {KEY}"),
        failure(400, f"flagged for {KEY}", "content_filter"),
        failure(500, f"crashed on {KEY}"),
        Reply(refusal=f"I won't, {KEY}"),
        Reply(f"your key is {KEY}", tool_calls=[{"function": {"name": KEY, "arguments": "{}"}}]),
        Reply(raw=b'{"error": "%s"}' % KEY.encode()),
        *map(escaped, (Reply(f"your key is {KEY}"), Reply(refusal=KEY), failure(400, KEY))),
        escaped(Reply("x", tool_calls=[{"function": {"name": "f", "arguments": f'["{KEY}"]'}}])),
        escaped(Reply("x", tool_calls=[{"function": {"name": "f", "arguments": AS_JSON}}])),
        escaped(Reply(raw=b'{"error": "%s"' % KEY.encode(), status=400)),
        escaped(Reply(raw=b'{"error": "%s"}' % KEY.encode())),
    ],
)
def test_a_key_that_a_server_repeats_goes_nowhere(server: Server, reply: Reply) -> None:
    server.answer = lambda body: reply
    job, kept = TestJob(secrets={"KEY": f" {KEY}\n"}), MemoryRecords()
    job.records = kept
    try:
        told: Any = ask(job, model(server, api_key="KEY", retries=1), "a")["a"]
    except FineryError as error:
        told = error
    text = f"{told} {getattr(told, 'text', '')} {job.events} {list(kept.values())}"
    assert "***" in text
    assert "k-a" not in text
    assert "0073" not in text
    assert "of-this-test" not in text
    assert server.keys[0] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (" \n", "KEY is empty"),
        ("sk-ключ", "KEY doesn't contain a key"),
        ("sk-a\nsk-b", "KEY doesn't contain a key"),
    ],
)
def test_a_key_that_cannot_be_sent_is_said_at_once(
    server: Server, value: str, message: str
) -> None:
    job = TestJob(secrets={"KEY": value})
    with pytest.raises(UsageError, match=message) as raised:
        ask(job, model(server, api_key="KEY"), "a")
    assert value not in str(raised.value)
    assert server.calls == []


def test_what_waits_to_be_sent_again_does_not_delay_the_end(server: Server) -> None:
    server.script += [failure(503, retry_after="60"), Reply("a", delay=0.5)]
    server.script += [Reply(status=401, error={"message": "no"}, delay=0.3)] * 9
    engine = TestJob().engine(model(server, concurrency=3))
    found: list[Any] = []
    started = time.monotonic()
    with pytest.raises(UsageError, match="denied access"):
        found.extend(engine.stream(map(Request, map(conversation, "abcdef"))))
    assert time.monotonic() - started < 50
    assert engine.usage.calls == 1  # what was under way is taken in


def test_a_server_that_refuses_everything_is_not_asked_a_thousand_times(server: Server) -> None:
    server.answer = lambda body: failure(400, "temperature isn't supported")
    with pytest.raises(
        StepError, match=r"too many requests failed in a row.*temperature"
    ) as raised:
        ask(TestJob(), model(server), *questions(1000))
    assert raised.value.details
    assert len(server.calls) < 100


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "fix"),
    [("127.0.0.1", "is the server running at"), ("no-such-host.invalid", "check the host name")],
)
def test_a_server_that_is_not_there_is_not_waited_for(
    host: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finery_openai.limits.FIRST_WAIT", 60.0)  # it would take minutes
    asked = OpenaiModel(model="m", base_url=f"http://{host}:{free_port()}/v1", api_key=None)
    with pytest.raises(StepError, match="can't be reached") as raised:
        ask(TestJob(), asked.run(TestJob(seed=None)), *questions(100))
    assert (raised.value.fix or "").startswith(fix)


def test_a_server_that_restarts_is_waited_for() -> None:
    with serving() as first:
        asked, port = model(first, concurrency=1), first.server_port
        engine, found = TestJob().engine(asked), []
        answers = engine.stream(map(Request, map(conversation, "abcdef")))
        found.append(next(answers))
    restart = threading.Timer(0.5, lambda: stack.enter_context(serving(port=port)))
    with ExitStack() as stack:
        restart.start()
        found += answers
        restart.join()
    assert [a.text for _, a in found if isinstance(a, Completion)] == [f"re: {c}" for c in "abcdef"]


# -- limits --------------------------------------------------------------------------------------


def test_so_many_are_under_way_and_no_more(server: Server) -> None:
    server.answer = lambda body: Reply("x", delay=0.05)
    ask(TestJob(), model(server, concurrency=8), *questions(64))
    assert server.most_flying == 8
    assert len(server.connections) <= 8


def test_requests_a_minute_are_kept_to(server: Server) -> None:
    ask(TestJob(), model(server, requests_per_minute=60 * 40), *questions(100))
    assert server.times[-1] - server.times[0] > 0.9  # 1.5, after a burst of forty


def test_a_budget_stops_what_is_asked(server: Server) -> None:
    server.answer = lambda body: Reply("x", usage=(900, 100))
    job = TestJob()
    asked = model(server, concurrency=4, price={"input": 1.0, "output": 11.0})
    engine = job.engine(asked, budget=Budget(dollars=0.04))  # 20 calls
    with pytest.raises(StepError, match="budget reached") as raised:
        list(engine.stream(map(Request, map(conversation, questions(100))), total=100))
    assert len(server.calls) == 20
    assert "20 of 100 requests are answered and stored" in raised.value.what
    list(job.engine(asked).stream(map(Request, map(conversation, questions(100)))))
    assert len(server.calls) == 100


# -- the step ------------------------------------------------------------------------------------


def test_how_it_is_asked_is_no_part_of_what_it_is(server: Server) -> None:
    plain = model(server)
    quick = model(server, concurrency=99, retries=0, api_key="K", price={"input": 1, "output": 2})
    assert plain.meta == quick.meta == {"format": "api", "name": "m", "server": server.url}
    assert quick.runtime["env"] == ["K"]
    assert model(server, extra={"top_k": 1}).meta != plain.meta


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"base_url": "https://me:secret@host/v1"}, "base_url"),
        ({"base_url": "https://host/v1?key=secret"}, "base_url"),
        ({"extra": {"messages": []}}, "extra.messages"),
    ],
)
def test_settings_that_cannot_be_right(settings: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as raised:
        OpenaiModel(model="m", **settings).check()
    assert raised.value.where == where
    assert "secret" not in str(raised.value)


# -- whole builds --------------------------------------------------------------------------------

RECIPE = """
finery: 1
name: t
models:
  teacher: {use: openai.model, model: m, base_url: "%(url)s", api_key: TEACHER_KEY}
  brief: {use: prompt.model, model: teacher, system: Be brief.}
data:
  rows: {use: data.file, path: rows.jsonl}
evaluate:
  test: {use: eval.exact, models: [teacher, brief], rows: rows}
"""


def lines(count: int) -> str:
    rows = [{"prompt": f"q{i}", "completion": f"re: q{i}"} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def taught(project: MakeProject, server: Server) -> Callable[..., Project]:
    """A project in which a model behind the server is judged."""

    def make(count: int, recipe: str = RECIPE) -> Project:
        made = project({"recipe.yaml": recipe % {"url": server.url}, "rows.jsonl": lines(count)})
        made.env["TEACHER_KEY"] = "sk-a-secret-of-this-test"
        return made

    return make


def test_an_api_model_is_judged_like_any_other(
    taught: Callable[..., Project], server: Server
) -> None:
    made = taught(20)
    server.script.append(Reply(refusal="no"))
    assert made.ran() == ["brief", "rows", "teacher", "test"]
    scores = json.loads((made.folder / "build/t/test/metrics.json").read_text())["scores"]
    assert sum(s["accuracy"] for s in scores.values()) == pytest.approx(1.95)
    assert len(server.calls) == 40
    assert set(server.keys) == {"Bearer sk-a-secret-of-this-test"}
    for path in made.folder.glob(".finery/**/*"):
        assert not path.is_file() or b"sk-a-secret" not in path.read_bytes()


def test_what_was_asked_is_not_asked_again(taught: Callable[..., Project], server: Server) -> None:
    """Nor by another recipe, nor since the server may be asked in another way."""
    made = taught(30)
    made.ran()
    server.answer = lambda body: Reply(echo(body), delay=0.02)
    server.most_flying = 0
    made.write({"rows.jsonl": lines(40)})
    made.edit("recipe.yaml", "api_key:", "concurrency: 3, price: {input: 1, output: 1}, api_key:")
    assert made.ran() == ["rows", "teacher", "test"]
    assert server.most_flying == 3  # the prompted model knows of it too
    alone = (RECIPE % {"url": server.url}).replace("[teacher, brief]", "[teacher]")
    made.write({"other.yaml": alone.replace("name: t", "name: other")})
    assert made.run("build", "other.yaml").code == 0
    assert len(server.calls) == 2 * 40
    assert set(server.counts().values()) == {2}  # once by each model


@pytest.mark.slow
def test_what_answers_cost_stays_visible(taught: Callable[..., Project], server: Server) -> None:
    made = taught(20)
    made.edit("recipe.yaml", "api_key:", "price: {input: 1000, output: 1000}, api_key:")
    server.answer = lambda body: Reply(echo(body), delay=0.02)
    first = made.run("build")
    (cost,) = re.findall(r"\(.+\); cost (\$\d+\.\d\d)\n", first.err)
    assert cost != "$0.00"
    assert re.search(rf"done +test .* {re.escape(cost)}\n", first.err)
    again = made.run("build").err
    assert "nothing to do" in again
    assert again.endswith(f"; cost {cost}\n")
    assert f", cost {cost}\n" in made.run("show").out
    assert f", cost {cost}\n" in made.run("show", "test").out.partition("\n")[0] + "\n"
    made.write({"rows.jsonl": lines(21)})
    more = made.run("build").err
    assert re.search(r"; cost \$\d+\.\d\d, \$\d+\.\d+ in this build\n", more), more
    made.edit("recipe.yaml", "rows: rows}", "rows: rows, max_tokens: 64, ignore_case: true}")
    rerun = made.run("build").err
    assert "1 built" in rerun
    assert re.search(r"\); cost \$\d+\.\d\d\n", rerun), "its answers come from the cache"


def test_a_build_that_is_killed_asks_the_rest_only(
    taught: Callable[..., Project], server: Server
) -> None:
    made = taught(150)
    server.answer = lambda body: Reply(echo(body), delay=0.05)
    lost = killed_midway(made, server)
    server.answer = echo
    made.ran()
    assert len(server.calls) == 300 + lost


def test_a_key_that_is_not_set_is_said_before_anything_is_asked(
    taught: Callable[..., Project], server: Server
) -> None:
    made = taught(5)
    del made.env["TEACHER_KEY"]
    ran = made.run("build")
    assert ran.code == 2
    assert "TEACHER_KEY, which the model 'teacher' needs, isn't set" in ran.err
    assert "recipe.yaml:10" in ran.err
    made.env["TEACHER_KEY"] = " "
    assert "TEACHER_KEY, which is empty here" in made.run("check").out
    ran = made.run("build")
    assert ran.code == 2
    assert "the environment variable TEACHER_KEY is empty" in ran.err
    assert server.calls == []


@pytest.mark.slow
def test_a_key_in_an_address_is_not_shown(taught: Callable[..., Project], server: Server) -> None:
    addresses = [
        f"host/v1{q}" for q in ("?api_key=5ecret", "?v=1&x-token=5ecret", "?v=1;key=5ecret")
    ]
    for address in (*addresses, "5ecret@host/v1", "me:5ecret@host/v1", "host/v1#5ecret"):
        made = taught(5, RECIPE.replace("%(url)s", f"http://{address}"))
        url = f"models.teacher.base_url=ftp://{address}"
        for ran in (made.run("check"), made.run("build"), made.run("check", "--set", url)):
            assert ran.code == 2
            assert "base_url" in ran.err
            assert "***" in ran.err
            assert "5ecret" not in ran.out + ran.err
    key = "sk-proj-5ecretAAAABBBBCCCC"
    made = taught(5, RECIPE.replace("TEACHER_KEY", key))
    for ran in (made.run("check"), made.run("build"), made.run("plan")):
        assert ran.code == 2
        assert key not in ran.out + ran.err
    assert (
        short("https://host/v1?api_key=5ecret&v=1", "setting url")
        == "https://host/v1?api_key=***&v=1"
    )
