"""The app of a bundle, run by `run.sh` with a real llama-server: what it answers and refuses."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from answering import HOSTILE, Running, running, started, tiny_bundle
from conftest import running as processes
from conftest import until
from llama_server import needs_llama_server
from needs import need

from finery import Bundle

pytestmark = [needs_llama_server, pytest.mark.slow]
need("bm25s")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a tiny GGUF."""
    return tiny_bundle(tmp_path_factory.mktemp("app"))


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> Iterator[Running]:
    """Its app."""
    with running(bundle) as app:
        yield app


def test_an_answer_has_its_sources(app: Running) -> None:
    answer = app.ask("Which files are read?").json()
    assert answer["model"] == "guide"
    assert isinstance(answer["choices"][0]["message"]["content"], str)
    assert answer["usage"]["completion_tokens"] <= 8
    first, *_ = answer["sources"]
    assert (first["label"], first["source"]) == (1, "guide/limits.md")
    assert first["text"] == "Files up to 50 MB are read. Larger\nfiles are left out."
    assert (first["heading"], first["place"]) == ("Limits > Files", {"line": 12})
    assert first["score"] > 0
    assert [source["label"] for source in answer["sources"]] == [1, 2, 3]


def test_a_stream_begins_with_the_sources_and_has_the_same_answer(app: Running) -> None:
    whole = app.ask().json()
    answer = app.ask(stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"data: [DONE]\n\n")
    head, *rest = answer.events()
    assert head["sources"] == whole["sources"]
    assert {event["id"] for event in (head, *rest)} == {head["id"]}
    deltas = [choice["delta"] for event in rest for choice in event["choices"]]
    text = "".join(delta.get("content") or "" for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    assert rest[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]


def test_the_openai_client_reads_sources(app: Running) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{app.port}/v1", api_key="none")
    assert [model.id for model in client.models.list()] == ["guide"]
    messages = [{"role": "user", "content": "Which files are read?"}]
    answer = client.chat.completions.create(model="guide", messages=messages)
    assert answer.sources[0]["source"] == "guide/limits.md"
    head, *rest = client.chat.completions.create(model="guide", messages=messages, stream=True)
    assert head.sources == answer.sources
    text = "".join(c.delta.content or "" for chunk in rest for c in chunk.choices)
    assert text == answer.choices[0].message.content


def test_hostile_documents_come_as_they_are(app: Running) -> None:
    sources = app.ask("tags").json()["sources"]
    assert {name: sources[0][name] for name in ("text", "source", "heading")} == {
        name: HOSTILE[name] for name in ("text", "source", "heading")
    }


@pytest.mark.parametrize(("body", "words"), [
    (b"{", "isn't JSON"),
    (b"[]", "must be a JSON object"),
    (b'{"messages": ["hi"]}', "'messages' must be a list of messages"),
    (b'{"messages": []}', "no user turn"),
    (b'{"messages": [{"role": "user"}]}', "must be text"),
    (b'{"messages": [{"role": "system", "content": {}}, {"role": "user", "content": "x"}]}',
     "must be text"),
])  # fmt: skip
def test_a_bad_request_is_refused_in_words(app: Running, body: bytes, words: str) -> None:
    answer = app.send("/v1/chat/completions", body)
    assert answer.status == 400, answer
    assert words in answer.message()


def test_what_the_model_refuses_is_passed_on(app: Running) -> None:
    answer = app.ask("word " * 2000)
    assert answer.status == 400
    assert "the model's server refuses the request" in answer.message()
    streamed = app.ask("word " * 2000, stream=True)
    assert streamed.status == 400


def test_large_and_unknown_requests_are_refused(app: Running) -> None:
    size = app.send("/v1/chat/completions", b"{}", content_length=str(2**30))
    assert size.status == 413
    assert app.send("/v1/chat/completions", b"{}", content_type="text/plain").status == 415
    assert app.send("/v1/other", b"{}").status == 404
    assert app.send("/../settings.json").status == 404


@pytest.mark.parametrize("headers", [
    {"host": "evil.example"}, {"origin": "http://evil.example"},
    {"origin": "null"}, {"origin": "http://127.0.0.1:1"},
])  # fmt: skip
def test_other_pages_and_names_are_refused(app: Running, headers: dict[str, str | None]) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    for sent in (None, body):
        path = "/" if sent is None else "/v1/chat/completions"
        answer = app.send(path, sent, **headers)
        assert answer.status == 403, answer
        assert "access-control-allow-origin" not in answer.headers


def test_the_page_may_load_nothing(app: Running) -> None:
    answer = app.send("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(rb"(src|href)=.?(https?:|//)", answer.body)


def _are_gone(mark: str) -> bool:
    return not processes(mark)


def test_ctrl_c_ends_it_and_the_model(bundle: Bundle) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        mark = f"MARK-{number}-{bundle.path}"
        with running(bundle, MARK=mark) as app:
            assert len(processes(mark)) >= 2
            code, err = app.end(number)
        assert code == 0
        assert err.endswith("the server has ended\n")
        assert "Traceback" not in err
        until(partial(_are_gone, mark))


def test_the_model_ends_when_the_app_is_killed(bundle: Bundle) -> None:
    mark = f"MARK-killed-{bundle.path}"
    with running(bundle, MARK=mark) as app:
        app.process.kill()
        until(lambda: not processes(mark))


def test_it_ends_if_the_model_does(bundle: Bundle) -> None:
    with running(bundle) as app:
        pid = app.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        (child,) = (c for c in children if b"--model" in Path(f"/proc/{c}/cmdline").read_bytes())
        os.kill(int(child), signal.SIGKILL)
        _, err = app.process.communicate(timeout=120)
        assert app.process.returncode == 1
        assert "error: the server ended unexpectedly" in err


@pytest.mark.parametrize(("args", "variables", "code", "words"), [
    ([], {"LLAMA_SERVER": "/nowhere/llama-server"}, 2, "which doesn't exist"),
    (["--host", "nowhere.invalid"], {}, 2, "nowhere.invalid"),
])  # fmt: skip
def test_what_keeps_it_from_starting(
    bundle: Bundle, args: list[str], variables: dict[str, str], code: int, words: str
) -> None:
    process = started(bundle, "--port", "0", *args, **variables)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert words in err
    assert "Traceback" not in err


def test_a_host_that_others_reach_demands_a_key(bundle: Bundle) -> None:
    with running(bundle, "--host", "0.0.0.0") as app:
        key = app.page.partition("#key=")[2]
        assert len(key) >= 32
        refused = app.ask()
        assert refused.status == 401
        assert "invalid API key" in refused.message()
        assert app.send("/v1/models").status == 401
        assert app.send("/v1/models", authorization="Bearer wrong").status == 401
        assert app.send("/v1/models", authorization=f"Bearer {key}").status == 200
        assert app.send("/").status == 200
        assert key.encode() not in app.send("/").body


def test_a_client_that_goes_away_does_no_harm(app: Running) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True}).encode()
    with socket.create_connection(("127.0.0.1", app.port)) as client:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{app.port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
    assert app.ask().status == 200
