"""An OpenAI-compatible server on 127.0.0.1 that misbehaves as real ones do.

`with serving(answer) as server:` answers `POST /v1/chat/completions`. `answer` gets the request's
body and returns the text of the answer, or a `Reply`. `server.script` contains replies for the next
calls, which are used before `answer` is called. `server.calls` contains the body of every call.
"""

import json
import os
import signal
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from conftest import Project, until
from loopback import in_thread

Body = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What the server does with a call.

    text, finish, refusal, tool_calls: of the answer. thinking: more fields of its message.
    status, error, headers: of a failure; `error`
    is the body's `error` object. raw: the whole body instead; stream: the same in pieces, without
    its length. empty: no choices at all. cut: break the connection off, "before" or "within" the
    body. delay: seconds before anything is sent. usage: (prompt, completion) tokens, or None.
    """

    text: str | None = ""
    finish: str = "stop"
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    thinking: Mapping[str, Any] = field(default_factory=dict)
    status: int = 200
    error: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    stream: Callable[[], Iterator[bytes]] | None = None
    empty: bool = False
    cut: str = ""
    delay: float = 0.0
    usage: tuple[int, int] | None = (10, 5)


def failure(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """A failure in OpenAI's format; headers as in `retry_after="1"`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status=status, error={"message": message, "code": code}, headers=named)


def said(body: Body) -> str:
    """The text of the last message of a request."""
    return str(body["messages"][-1]["content"])


def echo(body: Body) -> str:
    """Answer with the last message, after "re: "."""
    return f"re: {said(body)}"


class Server(ThreadingHTTPServer):
    """Answers calls and counts them."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self, answer: Callable[[Body], str | Reply] = echo, model: str = "m", port: int = 0
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer = answer
        self.model = model
        self.script: deque[Reply] = deque()
        self.calls: list[Body] = []
        self.times: list[float] = []
        self.keys: list[str | None] = []
        self.connections: set[Any] = set()
        self.flying = self.most_flying = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The `base_url`."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def counts(self) -> Counter[str]:
        """How often each last message was asked."""
        return Counter(map(said, self.calls))

    def reply(self, body: Body) -> Reply:
        """The reply to a call: the next one of the script, or that of `answer`."""
        with self.lock:
            scripted = self.script.popleft() if self.script else None
        if scripted is not None:
            return scripted
        if body.get("model") != self.model:
            return failure(
                404, f"The model `{body.get('model')}` does not exist", "model_not_found"
            )
        answer = self.answer(body)
        return Reply(answer) if isinstance(answer, str) else answer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def do_GET(self) -> None:
        """List the models."""
        self._send(200, json.dumps({"data": [{"id": self.server.model}]}).encode(), {})

    def do_POST(self) -> None:
        """Answer a call."""
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.calls.append(body)
            server.times.append(time.monotonic())
            server.keys.append(self.headers["Authorization"])
            server.connections.add(self.client_address)
            server.flying += 1
            server.most_flying = max(server.most_flying, server.flying)
        try:
            self._carry_out(server.reply(body), body)
        finally:
            with server.lock:
                server.flying -= 1

    def _carry_out(self, reply: Reply, body: Body) -> None:
        time.sleep(reply.delay)
        if reply.stream is not None:
            return self._send_pieces(reply, reply.stream())
        content = content_of(reply, body) if reply.raw is None else reply.raw
        if reply.cut == "before":
            self.close_connection = True
        elif reply.cut:
            self._send(reply.status, content, reply.headers, sent=len(content) // 2)
            self.close_connection = True
        else:
            self._send(reply.status, content, reply.headers)
        return None

    def _send_pieces(self, reply: Reply, pieces: Iterator[bytes]) -> None:
        self.close_connection = True
        self.send_response(reply.status)
        for name, value in {"Connection": "close", **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()

    def _send(
        self, status: int, content: bytes, headers: Mapping[str, str], sent: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[:sent])
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


def content_of(reply: Reply, body: Body) -> bytes:
    """The body of a response."""
    if reply.error is not None:
        return json.dumps({"error": dict(reply.error)}).encode()
    message = {
        "role": "assistant", "content": reply.text, "refusal": reply.refusal,
        "tool_calls": reply.tool_calls, **reply.thinking,
    }  # fmt: skip
    choices = [{"index": 0, "message": message, "finish_reason": reply.finish}]
    completion: dict[str, Any] = {
        "id": "x", "object": "chat.completion", "created": 0, "model": body.get("model"),
        "choices": [] if reply.empty else choices,
    }  # fmt: skip
    if reply.usage is not None:
        asked, answered = reply.usage
        completion["usage"] = {
            "prompt_tokens": asked, "completion_tokens": answered,
            "total_tokens": asked + answered,
        }  # fmt: skip
    return json.dumps(completion).encode()


@contextmanager
def serving(
    answer: Callable[[Body], str | Reply] = echo, model: str = "m", port: int = 0
) -> Iterator[Server]:
    """Serve until the block ends. port: 0 takes a free one."""
    with in_thread(Server(answer, model, port)) as server:
        yield server


def killed_midway(made: Project, server: Server) -> int:
    """`kill -9` a build after some 60 calls; the number of answers that weren't stored.

    Those in flight, 16 at most, and as many that were on their way into the store. The server is
    idle afterwards: it may read a request late that was sent before the kill.
    """

    def is_idle() -> bool:
        calls = len(server.calls)
        time.sleep(0.3)
        return server.flying == 0 and len(server.calls) == calls

    process = made.start("build")
    until(lambda: len(server.calls) > 60)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    until(is_idle)
    lost = len(server.calls) - kept_answers(made)
    assert 0 < lost <= 2 * 16, f"{lost} of {len(server.calls)} answers weren't stored"
    return lost


def kept_answers(made: Project) -> int:
    """The number of answers in a project's record cache."""
    with sqlite3.connect(made.folder / ".finery" / "finery.db") as db:
        return int(db.execute("SELECT count(*) FROM records").fetchone()[0])
