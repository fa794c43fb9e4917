"""Requests to a server that ends in the middle of an answer, e.g. because memory ran out."""

import io
import json
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event

import pytest

from finery import Completion, Sampling, StepError
from finery.rows import Conversation
from finery_serve.chat import screen
from finery_serve.chat.screen import Terminal
from finery_serve.chat.streams import ServerTalker, Write
from finery_serve.chat.talk import Session
from finery_serve.client import Client

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED, CLOSED = f"{HEAD}Transfer-Encoding: chunked\r\n\r\n", f"{HEAD}Connection: close\r\n\r\n"
EVENT = {"choices": [{"delta": {"content": "The answer is "}}]}
WRITTEN = f"data: {json.dumps(EVENT)}\n\n"
RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing the socket resets the connection."""


def chunk(text: str) -> str:
    """A chunk of a body without a length."""
    return f"{len(text):x}\r\n{text}\r\n"


def answer_one(listener: socket.socket, sent: str, is_read: Event, resets: bool) -> None:
    """Answer one request, and end the connection once the client has read what was sent."""
    listener.settimeout(20)  # for a test that fails before it asks
    connection, _ = listener.accept()
    connection.settimeout(None)
    with connection, connection.makefile("rb") as request:
        length = 0
        while (line := request.readline()).strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        request.read(length)
        connection.sendall(sent.encode())
        is_read.wait(120)
        if resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


@contextmanager
def ending(sent: str, *, resets: bool = False) -> Iterator[tuple[Client, Event]]:
    """A client of a server that sends this and ends. Set the event to have it end."""
    is_read = Event()
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        served = pool.submit(answer_one, listener, sent, is_read, resets)
        try:
            yield Client(f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=30), is_read
        finally:
            is_read.set()
            served.result()


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("sent", [CHUNKED + chunk(WRITTEN), CLOSED + WRITTEN])
def test_a_stream_that_breaks_off_is_an_error(sent: str, resets: bool) -> None:
    with ending(sent, resets=resets) as (client, is_read):
        events = client.stream("/v1/chat/completions", {})
        assert next(events) == EVENT
        is_read.set()
        with pytest.raises(StepError, match="the server's answer broke off") as error:
            next(events)
    assert "start it again" in str(error.value.fix)


@pytest.mark.parametrize("sent", [
    f"{CHUNKED}{chunk(WRITTEN)}{chunk('data: [DONE]' + chr(10))}",
    f"{CLOSED}: comment\n\nevent: x\n{WRITTEN}data:[DONE]\n\n",
])  # fmt: skip
def test_a_stream_ends_with_done(sent: str) -> None:
    with ending(sent) as (client, is_read):
        is_read.set()
        assert list(client.stream("/", {})) == [EVENT]


@pytest.mark.parametrize(("sent", "words"), [
    ("data: {\n\n", "the server's answer isn't JSON"),
    ("data: [1]\n\n", "an event isn't a JSON object"),
    ('data: {"error": {"message": "no room"}}\n\n', "the server ended the answer: no room"),
])  # fmt: skip
def test_a_stream_with_something_else(sent: str, words: str) -> None:
    with ending(CLOSED + sent) as (client, is_read):
        is_read.set()
        with pytest.raises(StepError, match=words):
            list(client.stream("/", {}))


@pytest.mark.parametrize(("sent", "words"), [
    ("HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{}", "answer broke off"),
    ("HTTP/1.1 500 No\r\nContent-Length: 90\r\n\r\n{}", "answer broke off"),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]", "answer isn't JSON"),
    ("SSH-2.0-server\r\n", "doesn't answer: SSH"),
    ("", "doesn't answer"),
])  # fmt: skip
def test_an_answer_that_is_not_whole_is_an_error(sent: str, words: str) -> None:
    with ending(sent) as (client, is_read):
        is_read.set()
        with pytest.raises(StepError, match=words):
            client.get("/")


def test_half_an_answer_is_not_part_of_the_conversation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is on a line of its own, and the talk goes on."""
    monkeypatch.chdir(tmp_path)
    lines = iter(["Why?", "/save", "/quit"])
    monkeypatch.setattr(screen, "disable_echo", nullcontext)
    monkeypatch.setattr("prompt_toolkit.PromptSession.prompt", lambda *_: next(lines))
    with ending(CHUNKED + chunk(WRITTEN)) as (client, is_read):
        talker = ServerTalker(client, "m")

        class Ending:
            """The talker, whose server ends after the first word."""

            tools = None

            def answer(
                self, messages: Conversation, sampling: Sampling, write: Write
            ) -> Completion:
                def first(part: str, thinking: bool) -> None:
                    write(part, thinking)
                    is_read.set()

                return talker.answer(messages, sampling, first)

        Session({"m": Ending()}, Sampling(), Terminal(), "").run(io.StringIO())
    _, answer, error, _, nothing, *_ = capsys.readouterr().out.splitlines()
    assert (answer, error) == ("The answer is ", "error: the server's answer broke off")
    assert nothing == "error: there is nothing to save yet"


@pytest.mark.parametrize("body", [None, {}])
def test_a_redirect_isnt_followed_and_the_key_isnt_shown(body: dict[str, str] | None) -> None:
    key = "sk-1234567890"
    with socket.create_server(("127.0.0.1", 0)) as other:
        target = f"http://127.0.0.1:{other.getsockname()[1]}/{key}?sig=hunter2"
        head = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
        with ending(head) as (client, is_read):
            is_read.set()
            keyed = Client(client.address, key, seconds=30)
            with pytest.raises(StepError, match=r"it redirects to http.*/\*\*\*, and") as refused:
                keyed.send("/x", body)
        other.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody connected
            other.accept()
    assert "hunter2" not in str(refused.value)
