"""The app's server in this process: requests it refuses, and what it sends to a model's server."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from hostile_server import Reply as Hostile
from hostile_server import serving
from loopback import JsonServer, in_thread

from finery import UsageError
from finery.rows import Conversation
from finery_retrieve.serve.app import MAX_BODY_BYTES, Source, make_app
from finery_retrieve.serve.bundle import read_settings
from finery_retrieve.serve.running import serve_bundle
from finery_retrieve.serve.upstream import Refused, Upstream
from finery_serve.processes import Address
from finery_serve.servers import Serving

Reply = Callable[[dict[str, Any]], tuple[int, Any]]
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "50 MB [1]"}}]}
QUESTION = {"messages": [{"role": "user", "content": "Which files?"}]}
MANY = 100
SOURCES = [{"id": "a", "text": "Files up to 50 MB are read."}]


class ModelServer(JsonServer):
    """A model's server that answers as `answer` says."""

    def __init__(self) -> None:
        super().__init__()
        self.answer: Reply = lambda body: (200, ANSWER)

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """What `answer` says."""
        return self.answer(body)


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with in_thread(ModelServer()) as running:
        yield running


class Running(NamedTuple):
    """An app that listens. prompt: what it calls for a prompt; a test may replace it."""

    port: int
    prompt: list[Any]


@contextmanager
def app_of(upstream: Upstream) -> Iterator[Running]:
    """An app in a thread."""
    bound = Address().listening()
    app = Running(bound.getsockname()[1], [prompted])
    asgi = make_app("guide", lambda m: app.prompt[0](m), upstream, "127.0.0.1", app.port, None)
    server = uvicorn.Server(uvicorn.Config(asgi, log_level="warning", http="h11", lifespan="on"))
    thread = threading.Thread(target=server.run, args=[[bound]])
    thread.start()
    yield app
    server.should_exit = True
    thread.join()


@pytest.fixture
def app(model: ModelServer) -> Iterator[Running]:
    with app_of(Upstream(model.address, "m", parameters={"max_tokens": 512})) as app:
        yield app


def prompted(messages: Conversation) -> tuple[Conversation, list[Source]]:
    return list(messages), SOURCES


def raw(app: Running, *lines: str, body: bytes = b"") -> bytes:
    """All that the server sends for these lines and bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", app.port), timeout=120) as client:
        client.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        return b"".join(iter(lambda: client.recv(65536), b""))


def host(app: Running) -> str:
    return f"Host: 127.0.0.1:{app.port}"


def post(app: Running, body: bytes, *lines: str) -> bytes:
    lengths = () if any("length" in line.lower() for line in lines) else (
        f"Content-Length: {len(body)}",
    )  # fmt: skip
    kind = "Content-Type: application/json"
    start = "POST /v1/chat/completions HTTP/1.1"
    return raw(app, start, host(app), kind, *lengths, *lines, body=body)


def status(answer: bytes) -> int:
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    return int(answer.split()[1])


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET")],
)
def test_a_wrong_method_is_refused(app: Running, method: str, path: str, allowed: str) -> None:
    answer = raw(app, f"{method} {path} HTTP/1.1", host(app), "Content-Length: 0")
    assert status(answer) == 405
    assert f"{path} takes".encode() in answer
    allow = re.search(rb"allow: (.*)\r", answer)
    assert allow is not None
    assert allowed in allow[1].decode()


def test_a_body_of_a_get_request_is_no_second_request(app: Running) -> None:
    second = f"GET /v1/models HTTP/1.1\r\n{host(app)}\r\n\r\n".encode()
    answer = raw(app, "GET /health HTTP/1.1", host(app), f"Content-Length: {len(second)}",
                 body=second)  # fmt: skip
    assert status(answer) == 200


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Content-Length: " + "9" * 5000], 400),
        ([f"Content-Length: {MAX_BODY_BYTES + 1}"], 413),
        (["Content-Length: 2", "Content-Length: 40"], 400),
        (["Host: 127.0.0.1:1"], 400),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(
    app: Running, lines: list[str], expected: int
) -> None:
    assert status(post(app, b"{}", *lines)) == expected


def test_a_body_without_a_length_is_counted(app: Running, model: ModelServer) -> None:
    line = "Transfer-Encoding: chunked"
    start = "POST /v1/chat/completions HTTP/1.1", host(app), "Content-Type: application/json", line
    body = b"%x\r\n" % (MAX_BODY_BYTES + 1) + b" " * (MAX_BODY_BYTES + 1) + b"\r\n0\r\n\r\n"
    assert status(raw(app, *start, body=body)) == 413
    asked = json.dumps(QUESTION).encode()
    assert status(raw(app, *start, body=b"%x\r\n%s\r\n0\r\n\r\n" % (len(asked), asked))) == 200
    assert len(model.bodies) == 1


def test_only_a_wrong_request_is_the_fault_of_the_client(app: Running) -> None:
    assert status(post(app, b'{"messages": [{"role": "assistant", "content": "x"}]}')) == 400

    def broken(messages: Conversation) -> Any:
        raise ValueError("shapes (3,) and (4,) not aligned")

    app.prompt[0] = broken
    assert status(post(app, json.dumps(QUESTION).encode())) == 500


def test_an_error_with_status_200_is_an_error(app: Running, model: ModelServer) -> None:
    asked = json.dumps(QUESTION).encode()
    assert status(post(app, asked)) == 200
    model.answer = lambda body: (200, {"error": {"message": "out of memory"}})
    answer = post(app, asked)
    assert status(answer) == 502
    assert b"out of memory" in answer


def test_many_answers_are_waited_for_at_once(app: Running, model: ModelServer) -> None:
    together = threading.Barrier(MANY, timeout=120)

    def reply(_: dict[str, Any]) -> tuple[int, Any]:
        together.wait()
        return 200, ANSWER

    model.answer = reply
    asked = json.dumps(QUESTION).encode()
    with ThreadPoolExecutor(MANY) as pool:
        answers = [pool.submit(post, app, asked) for _ in range(MANY)]
    assert {status(answer.result()) for answer in answers} == {200}


def test_the_model_stops_when_the_client_goes_away() -> None:
    ended = threading.Event()

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield b'data: {"choices": []}\n\n'
                time.sleep(0.02)
        finally:
            ended.set()

    with (
        serving(lambda body: Hostile(stream=endless)) as server,
        app_of(Upstream(server.url, "m")) as app,
    ):
        asked = json.dumps({**QUESTION, "stream": True}).encode()
        lines = ["POST /v1/chat/completions HTTP/1.1", host(app),
                 "Content-Type: application/json", f"Content-Length: {len(asked)}"]  # fmt: skip
        with socket.create_connection(("127.0.0.1", app.port), timeout=120) as client:
            client.sendall("\r\n".join([*lines, "", ""]).encode() + asked)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        assert ended.wait(120)


@pytest.mark.parametrize(
    ("asked", "extra", "expected"),
    [
        ({}, {}, {"max_tokens": 512}),
        ({"max_tokens": 7}, {}, {"max_tokens": 7}),
        ({"max_completion_tokens": 7}, {}, {"max_completion_tokens": 7}),
        ({"max_tokens": 7}, {"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
        ({"max_completion_tokens": None}, {}, {"max_tokens": 512}),
    ],
)
def test_a_request_has_one_limit(asked: Any, extra: Any, expected: Any) -> None:
    upstream = Upstream("http://localhost/v1", "m", None, {"max_tokens": 512}, extra)
    body = upstream.body([], asked)
    assert {name: value for name, value in body.items() if name.startswith("max")} == expected


@pytest.mark.parametrize(
    ("asked", "expected"), [({}, 0), ({"temperature": None}, 0), ({"temperature": 1}, 1)]
)
def test_an_answer_is_greedy_unless_a_request_sets_a_temperature(asked: Any, expected: int) -> None:
    """null sets none, as in OpenAI's API: clients send it for what their user didn't set."""
    upstream = Upstream("http://localhost/v1", "m", None, {"temperature": 0})
    assert upstream.body([], asked)["temperature"] == expected


def test_a_model_that_wants_the_other_name_gets_it(model: ModelServer) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, {"error": {"message": message}}
        return 200, ANSWER

    model.answer = reply
    upstream = Upstream(model.address, "m", parameters={"max_tokens": 512})
    for _ in range(2):
        upstream.open([], {}).close()
    limits = [sorted(name for name in body if name.startswith("max")) for body in model.bodies]
    assert limits == [["max_tokens"], ["max_completion_tokens"], ["max_completion_tokens"]]
    model.answer = lambda body: (400, {"error": {"message": "max_completion_tokens is too large"}})
    with pytest.raises(Refused, match="too large"):
        upstream.open([], {})


KEY = "sk-key/of+owner"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_the_key_stays_with_the_server_that_it_is_for(model: ModelServer, code: int) -> None:
    elsewhere = f"{model.address}/chat/completions?key={KEY}"
    moved = Hostile(status=code, error={}, headers={"Location": elsewhere})
    with (
        serving(lambda body: moved) as server,
        app_of(Upstream(server.url, "m", KEY)) as app,
    ):
        answer = post(app, json.dumps(QUESTION).encode())
    assert status(answer) == 502
    assert b"redirects aren't followed" in answer
    assert KEY.encode() not in answer
    assert not model.bodies


@pytest.mark.parametrize("code", [200, 400, 401, 500])
@pytest.mark.parametrize("text", [KEY, KEY.replace("/", "\\/").replace("s", "\\u0073")])
@pytest.mark.parametrize("stream", [False, True])
def test_clients_never_get_the_key(code: int, text: str, stream: bool) -> None:
    said = f'{{"error": {{"message": "{"x" * 400}: wrong key {text}"}}}}'
    raw = f"data: {said}\n\n" if stream and code == 200 else said
    reply = Hostile(status=code, error={}, raw=raw.encode())
    with (
        serving(lambda body: reply) as server,
        app_of(Upstream(server.url, "m", KEY)) as app,
    ):
        answer = post(app, json.dumps({**QUESTION, "stream": stream}).encode())
    assert b"xxx" in answer
    assert KEY[:9].encode() not in answer
    assert rb"\u0073k-key" not in answer


SETTINGS = {
    "format": 2, "finery": "0.1.0", "name": "guide", "k": 3,
    "index": {"method": "bm25", "bm25": {"language": "none"}},
    "prompt": {"unknown": "?", "limit": None},
    "model": {"use": "gguf", "file": "m.gguf", "context": 64, "slots": 1, "parameters": {}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "truncated"),
        (json.dumps({**SETTINGS, "format": 1}), r"`\$\.format`"),
    ],
)
def test_broken_settings_are_explained(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UsageError, match=f"settings of the bundle can't be read: .*{words}"):
        read_settings(tmp_path)


def test_a_gguf_refuses_the_address_of_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bm25s")
    from answering import tiny_bundle

    monkeypatch.setenv("BASE_URL", "http://127.0.0.1:1/v1")
    with (
        pytest.raises(UsageError, match="the GGUF of the bundle answers"),
        serve_bundle(tiny_bundle(tmp_path), Serving(name="guide")),
    ):
        pass
