"""The app's server in this process: requests it refuses, and what it sends to a model's server."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from loopback import JsonServer, in_thread

from finery_retrieve.serve.app import __main__ as program
from finery_retrieve.serve.app.bundle import opened, opened_from
from finery_retrieve.serve.app.prompt import question_of
from finery_retrieve.serve.app.server import (
    LARGEST,
    App,
    Message,
    Refused,
    Server,
    Unusable,
    Upstream,
    is_not_here,
)

Reply = Callable[[dict[str, Any]], tuple[int, Any]]
ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "50 MB [1]"}}]}
QUESTION = {"messages": [{"role": "user", "content": "Which files?"}]}
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


@pytest.fixture
def app(model: ModelServer) -> Iterator[Server]:
    server = Server("127.0.0.1", 0)
    upstream = Upstream(model.address, "m", parameters={"max_tokens": 512})
    server.app = App("guide", "guide", prompted, upstream, None)
    with in_thread(server) as running:
        yield running


def prompted(messages: Sequence[Message]) -> tuple[list[Message], list[dict[str, Any]]]:
    question_of(messages)
    return list(messages), SOURCES


def raw(app: Server, *lines: str, body: bytes = b"") -> bytes:
    """All that the server sends for these lines and bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", app.port), timeout=10) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def host(app: Server) -> str:
    return f"Host: 127.0.0.1:{app.port}"


def post(app: Server, body: bytes, *lines: str) -> bytes:
    lengths = () if any("length" in line.lower() for line in lines) else (
        f"Content-Length: {len(body)}",
    )  # fmt: skip
    kind = "Content-Type: application/json"
    start = "POST /v1/chat/completions HTTP/1.1"
    return raw(app, start, host(app), kind, *lengths, *lines, body=body)


def status(answer: bytes) -> int:
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    return int(answer.split()[1])


@pytest.mark.parametrize("framing", ["Content-Length: {length}", "Transfer-Encoding: chunked"])
def test_a_body_of_a_get_request_is_no_second_request(app: Server, framing: str) -> None:
    second = f"GET /v1/models HTTP/1.1\r\n{host(app)}\r\n\r\n".encode()
    line = framing.format(length=len(second))
    answer = raw(app, "GET /health HTTP/1.1", host(app), line, body=second)
    assert status(answer) == 400
    assert b"must have no body" in answer


def test_get_requests_without_a_body_share_a_connection(app: Server) -> None:
    first = ("GET /health HTTP/1.1", host(app), "Content-Length: 0", "")
    answer = raw(app, *first, "GET /health HTTP/1.1", host(app))
    assert answer.count(b"HTTP/1.1 200") == 2


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Content-Length: " + "9" * 5000], 413),
        ([f"Content-Length: {LARGEST + 1}"], 413),
        (["Content-Length: ²"], 411),
        (["Content-Length: 2", "Content-Length: 40"], 411),
        (["Content-Length: 2", "Transfer-Encoding: chunked"], 411),
    ],
)
def test_a_length_that_cannot_be_read_is_refused(
    app: Server, lines: list[str], expected: int
) -> None:
    assert status(post(app, b"{}", *lines)) == expected


def test_half_of_a_surrogate_pair_is_refused(app: Server, model: ModelServer) -> None:
    body = rb'{"messages": [{"role": "user", "content": "\ud800"}]}'
    answer = post(app, body)
    assert status(answer) == 400
    assert b"surrogate" in answer
    assert model.bodies == []


def test_only_a_wrong_request_is_the_fault_of_the_client(
    app: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status(post(app, b'{"messages": [{"role": "assistant", "content": "x"}]}')) == 400

    def broken(messages: Sequence[Message]) -> Any:
        raise ValueError("shapes (3,) and (4,) not aligned")

    monkeypatch.setattr(app.app, "prompt", broken)
    assert status(post(app, json.dumps(QUESTION).encode())) == 500


def test_an_error_with_status_200_is_an_error(app: Server, model: ModelServer) -> None:
    asked = json.dumps(QUESTION).encode()
    assert status(post(app, asked)) == 200
    model.answer = lambda body: (200, {"error": {"message": "out of memory"}})
    answer = post(app, asked)
    assert status(answer) == 502
    assert b"out of memory" in answer


def test_names_of_this_machine_have_no_case(app: Server) -> None:
    line, origin = f"Host: LOCALHOST:{app.port}", f"Origin: http://localhost:{app.port}"
    assert status(raw(app, "GET /health HTTP/1.1", line, origin)) == 200
    assert status(raw(app, "GET /health HTTP/1.1", "Host: localhost")) == 403
    assert status(raw(app, "GET /health HTTP/1.1", "Host: localhost:80")) == 403


def test_the_port_of_http_is_optional(app: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on port 80, which takes rights to listen on."""
    port = app.port
    monkeypatch.setattr(Server, "port", 80)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("asked", "extra", "expected"),
    [
        ({}, {}, {"max_tokens": 512}),
        ({"max_tokens": 7}, {}, {"max_tokens": 7}),
        ({"max_completion_tokens": 7}, {}, {"max_completion_tokens": 7}),
        ({}, {"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
        ({"max_tokens": 7}, {"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
        ({"max_completion_tokens": None}, {}, {"max_tokens": 512}),
        ({"max_tokens": None}, {}, {"max_tokens": 512}),
        ({"max_tokens": None}, {"max_tokens": 9}, {"max_tokens": 9}),
        ({}, {"max_tokens": None}, {}),
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


@pytest.mark.parametrize(("key", "expected"), [(" se same ", "se same"), (None, 43), ("  ", 43)])
def test_spaces_around_a_key_do_not_count(
    monkeypatch: pytest.MonkeyPatch, key: str | None, expected: str | int
) -> None:
    """Requests can't send them."""
    monkeypatch.delenv("SERVE_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("SERVE_KEY", key)
    chosen = program._key()
    assert expected in (chosen, len(chosen))


def test_the_variable_host_of_conda_is_not_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "x86_64-conda-linux-gnu")
    monkeypatch.setenv("PORT", "1")
    options = program._parser().parse_args([])
    assert (options.host, options.port) == ("127.0.0.1", 8080)
    monkeypatch.setenv("SERVE_HOST", "::1")
    monkeypatch.setenv("SERVE_PORT", "9000")
    options = program._parser().parse_args([])
    assert (options.host, options.port) == ("::1", 9000)


@pytest.mark.parametrize("name", ["nowhere.invalid", "192.0.2.1"])
def test_a_foreign_address_is_not_called_a_busy_port(name: str) -> None:
    what = f"{name} is not an address of this machine"
    with pytest.raises(Unusable, match=what) as raised, program._listening(name, 0):
        pass
    assert is_not_here(raised.value.__cause__)  # type: ignore[arg-type]
    assert "SERVE_HOST" in str(raised.value)


PROMPT = {"unknown": "?", "limit": None}
SETTINGS = {
    "format": 1, "name": "guide", "k": 3, "index": {"method": "bm25", "bm25": {"language": "none"}},
    "prompt": PROMPT, "model": {"name": "m", "parameters": {}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "can't be read"),
        ("{", "can't be read"),
        ("[]", "has the format None, not 1"),
        (json.dumps({**SETTINGS, "format": 2}), "has the format 2, not 1"),
        (json.dumps({**SETTINGS, "prompt": {"limit": 1}}), r"lacks 'prompt\.unknown'"),
        (json.dumps({**SETTINGS, "index": []}), r"lacks 'index\.method'"),
        ('{"format": 1, "name": "guide"}', "lacks 'k'"),
    ],
)
def test_broken_settings_are_explained(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "settings.json").write_text(text)
    with pytest.raises(Unusable, match=words):
        opened(tmp_path)


def test_a_source_has_its_text_as_the_prompt_has_it(tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    from answering import CHUNKS, HOSTILE, indexed

    index = indexed(tmp_path, CHUNKS)
    shutil.copytree(index.path, tmp_path / "copy")
    settings = {**SETTINGS, "index": {"method": "bm25", "bm25": index.meta["bm25"]}}
    app = opened_from(tmp_path / "copy", tmp_path, settings, "{{ chunks[0].text }}{{ question }}")
    messages, sources = app.prompted([{"role": "user", "content": "tags"}])
    assert sources[0]["text"] == HOSTILE["text"]
    assert sources[0]["prompted"] in messages[0]["content"]
    _, sources = app.prompted([{"role": "user", "content": "password"}])
    assert "prompted" not in sources[0]
