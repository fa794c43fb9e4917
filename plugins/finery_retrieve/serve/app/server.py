"""The HTTP server: the page, and `/v1/chat/completions` with the sources in an extra field."""

import errno
import hmac
import json
import os
import socket
import socketserver
import time
import traceback
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from re import DOTALL, findall
from typing import Any
from urllib.parse import quote, urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
LARGEST = 4 * 2**20
"""Bytes of a request that is read."""
SECONDS = 600.0
"""For the model's server to send the next part of an answer."""
COMPLETIONS = "/v1/chat/completions"
PAGES = ("/", "/health", "/v1/models")
REQUIRED = ("model", "messages", "stream")
"""Parameters of a request that this server sets itself."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""Names of the longest answer: the usual one, and that of OpenAI's newer models."""
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_ANY = urllib.request.build_opener()

Message = dict[str, Any]
Prompt = Callable[[Sequence[Message]], tuple[list[Message], list[dict[str, Any]]]]
"""Makes the messages for the model, and their sources in the order of their labels.

Raises `NoQuestion` for a conversation without a question.
"""


class NoQuestion(ValueError):
    """A conversation without a user turn."""


class Refused(Exception):
    """A request that isn't answered. status: of HTTP. allowed: the methods of the path."""

    def __init__(self, status: int, message: str, allowed: str = "") -> None:
        super().__init__(message)
        self.status, self.allowed = status, allowed


class Unusable(Exception):
    """The app can't start. code: the exit code; 2 if the user can correct it. fix: how."""

    def __init__(self, message: str, code: int = 2, fix: str = "") -> None:
        super().__init__(message)
        self.code, self.fix = code, fix


def address_in(variable: str) -> str | None:
    """The address of a server in an environment variable; None if it isn't set. `Unusable`."""
    address = os.environ.get(variable)
    if not address:
        return None
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        what = f"{variable} is {address!r}, which isn't the address of a server"
        raise Unusable(what, fix="write it with http:// or https://, e.g. http://127.0.0.1:8081/v1")
    return address.rstrip("/")


def opener_for(url: str) -> urllib.request.OpenerDirector:
    """What opens an address: without the environment's proxy for a server on this machine."""
    return _LOCAL if urlsplit(url).hostname in LOOPBACK else _ANY


@dataclass(frozen=True)
class Upstream:
    """The model's server.

    base_url: e.g. `http://127.0.0.1:8081/v1`. model: its name there. key: its API key. parameters:
    of the requests that don't set them. extra: override a request's; null removes one. renamed:
    parameters that the server turned out to want under another name.
    """

    base_url: str
    model: str
    key: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def body(self, messages: list[Message], asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the model's server is sent. null in a request is a parameter that it doesn't set."""
        own = {n: value for n, value in asked.items() if n not in REQUIRED and value is not None}
        body = dict(self.parameters)
        for more in (own, self.extra):
            if any(more.get(name) is not None for name in LIMITS):  # servers refuse both at once
                body = {name: value for name, value in body.items() if name not in LIMITS}
            body |= more
        body = {self.renamed.get(n, n): value for n, value in body.items() if value is not None}
        stream = bool(asked.get("stream"))
        return {**body, "model": self.model, "messages": messages, "stream": stream}

    def open(self, messages: list[Message], asked: Mapping[str, Any]) -> Any:
        """The HTTP response to a request for a completion. `Refused` if there is none."""
        body = self.body(messages, asked)
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        url = f"{self.base_url}/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            return opener_for(url).open(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            reason = _reason(error.read().decode("utf-8", "replace"))
            old, new = LIMITS
            if error.code == 400 and old in body and new in reason:  # as finery_openai does
                self.renamed[old] = new
                return self.open(messages, asked)
            status = error.code if error.code in (400, 413, 422, 429) else 502
            raise Refused(status, f"the model's server refuses the request: {reason}") from error
        except (OSError, HTTPException) as error:
            raise Refused(502, f"the model's server doesn't answer: {error}") from error


class App:
    """What the server needs to answer.

    name: of the model in the API. title: of the page. prompt: makes the model's messages. key: what
    requests must send; None lets everybody in who reaches the address.
    """

    def __init__(
        self, name: str, title: str, prompt: Prompt, upstream: Upstream, key: str | None
    ) -> None:
        self.name, self.title, self.prompt = name, title, prompt
        self.upstream, self.key = upstream, key
        self.page = Path(__file__).with_name("page.html").read_bytes()
        self.policy = _policy(self.page.decode())


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Listens, and answers each connection in a thread of its own."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    app: App
    """Must be set before it serves. It listens earlier: a port in use is reported at once."""

    def __init__(self, host: str, port: int) -> None:
        """Raises `OSError` if the address can't be used."""
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        self.address_family, self.host = family, host
        super().__init__((str(address[0]), int(address[1])), Handler)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Where this machine reaches it, e.g. `http://127.0.0.1:8080`."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def page(self) -> str:
        """The address of the page, with the key if it needs one: browsers don't send it along."""
        return f"{self.address}/#key={quote(self.app.key)}" if self.app.key else f"{self.address}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that went away; print any other error."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


def is_not_here(error: OSError) -> bool:
    """Whether an error of `Server` means that this machine doesn't have the address."""
    return isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "answers", ""
    timeout = 120
    server: Server

    def do_GET(self) -> None:
        """The page, the name of the model, and whether the server is up."""
        app = self.server.app
        try:
            self._check_origin()
            self._check_no_body()
            path = self.path.partition("?")[0]
            if path == "/":
                policy = {"Content-Security-Policy": app.policy}
                self._send(200, app.page, "text/html; charset=utf-8", policy)
            elif path == "/health":
                self._send_json(200, {"status": "ok"})
            elif path == "/v1/models":
                self._check_key()
                model = {"id": app.name, "object": "model", "created": 0, "owned_by": "finery"}
                model["title"] = app.title
                self._send_json(200, {"object": "list", "data": [model]})
            elif path == COMPLETIONS:
                raise Refused(405, f"{COMPLETIONS} takes POST", "POST")
            else:
                raise Refused(404, f"there is only {', '.join(PAGES)} and {COMPLETIONS}")
        except Refused as error:
            self._refuse(error)

    def do_HEAD(self) -> None:
        """The headers of `do_GET`."""
        self.do_GET()

    def do_POST(self) -> None:
        """Answer a chat completion."""
        try:
            self._check_origin()
            self._check_key()
            path = self.path.partition("?")[0]
            if path in PAGES:
                raise Refused(405, f"{path} takes GET", "GET, HEAD")
            if path != COMPLETIONS:
                raise Refused(404, f"requests go to {COMPLETIONS}")
            asked = self._body()
            messages, sources = self._prompt(asked)
            if asked.get("stream"):
                self._stream(messages, sources, asked)
            else:
                self._answer(messages, sources, asked)
        except Refused as error:
            self._refuse(error)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: questions are nobody's business."""

    def _prompt(self, asked: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]]]:
        try:
            check_messages(asked.get("messages"))
        except ValueError as error:
            raise Refused(400, str(error)) from error
        try:
            prompted, sources = self.server.app.prompt(asked["messages"])
        except NoQuestion as error:
            raise Refused(400, str(error)) from error
        except Refused:
            raise
        except Exception as error:  # a template can raise anything
            traceback.print_exc()
            raise Refused(500, f"the prompt can't be written: {error}") from error
        return prompted, [{"label": n, **source} for n, source in enumerate(sources, 1)]

    def _answer(self, messages: list[Message], sources: list[Any], asked: dict[str, Any]) -> None:
        app = self.server.app
        with app.upstream.open(messages, asked) as response:
            answer = read(response)
        self._send_json(200, {**answer, "model": app.name, "sources": sources})

    def _stream(self, messages: list[Message], sources: list[Any], asked: dict[str, Any]) -> None:
        """Server-sent events: a chunk with the sources, then those of the model."""
        app = self.server.app
        with app.upstream.open(messages, asked) as response:
            self.send_response(200)
            self._send_headers({"Content-Type": "text/event-stream", "Connection": "close"})
            self.close_connection = True
            same = {"id": f"chatcmpl-{uuid.uuid4().hex}", "model": app.name}
            delta = {"role": "assistant", "content": ""}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            head = {"object": "chat.completion.chunk", "created": int(time.time())}
            self._event({**same, **head, "choices": [choice], "sources": sources})
            try:
                for event in events(response):
                    self._event(event if "error" in event else {**event, **same})
            except Refused as error:
                self._event(_error(error.status, str(error)))
            self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, content: Mapping[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(content)}\n\n".encode())
        self.wfile.flush()

    def _check_origin(self) -> None:
        """Refuse requests of other web pages, and of foreign names for this machine.

        A name that resolves to 127.0.0.1 (DNS rebinding) would let any page read answers.
        """
        host, server = _spelled(self.headers.get("Host", "")), self.server
        own = {_spelled(f"{name}:{server.port}") for name in _names()}
        if server.host in LOOPBACK and host not in own:
            raise Refused(403, f"the Host must be {server.host}:{server.port}")
        origin = self.headers.get("Origin")
        if origin is not None and _spelled(origin.partition("://")[2]) != host:
            raise Refused(403, "the request comes from another web page")

    def _check_key(self) -> None:
        key = self.server.app.key
        sent = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if key is not None and not hmac.compare_digest(sent.encode(), key.encode()):
            raise Refused(401, "invalid API key: send the one that the server printed")

    def _body(self) -> dict[str, Any]:
        if self.headers.get_content_type() != "application/json":
            raise Refused(415, "a request must be JSON: Content-Type: application/json")
        try:
            body = json.loads(self.rfile.read(self._length()))
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the request isn't JSON: {error}") from error
        if not isinstance(body, dict):
            raise Refused(400, "the request must be a JSON object")
        try:
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Refused(400, "the request has half of a surrogate pair, e.g. \\ud800") from error
        return body

    def _length(self) -> int:
        """Bytes of the body. `Refused` unless the headers give one length."""
        lengths = self.headers.get_all("Content-Length", [])
        length = lengths[0].lstrip("0") or "0" if len(lengths) == 1 else ""
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdecimal()):
            raise Refused(411, "a request needs one Content-Length and no Transfer-Encoding")
        if len(length) > len(str(LARGEST)) or int(length) > LARGEST:
            raise Refused(413, f"a request may have {LARGEST:,} bytes")
        return int(length)

    def _check_no_body(self) -> None:
        """Refuse a body that isn't read: on the same connection it would be the next request."""
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or any(length.strip("0") for length in lengths):
            raise Refused(400, "a GET request must have no body")

    def _refuse(self, error: Refused) -> None:
        self.close_connection = True  # a body that wasn't read would be the next request
        more = {"Allow": error.allowed} if error.allowed else {}
        self._send_json(error.status, _error(error.status, str(error)), more)

    def _send_json(self, status: int, content: Any, more: Mapping[str, str] = {}) -> None:
        self._send(status, json.dumps(content).encode(), "application/json", more)

    def _send(self, status: int, body: bytes, kind: str, more: Mapping[str, str]) -> None:
        self.send_response(status)
        self._send_headers({"Content-Type": kind, "Content-Length": str(len(body)), **more})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_headers(self, headers: Mapping[str, str]) -> None:
        for name, value in {**HEADERS, **headers}.items():
            self.send_header(name, value)
        if self.close_connection and "Connection" not in headers:
            self.send_header("Connection", "close")
        self.end_headers()


HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer."""


def read(response: HTTPResponse) -> dict[str, Any]:
    """A whole completion. `Refused` if it breaks off, or isn't one."""
    try:
        text = response.read()
        answer = _object(text)
    except (ValueError, OSError, HTTPException) as error:
        raise Refused(502, f"the model's answer can't be read: {error}") from error
    if not isinstance(answer.get("choices"), list):
        reason = _reason(text.decode("utf-8", "replace"))
        raise Refused(502, f"the model's server sent no answer: {reason}")
    return answer


def events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of a streamed completion. `Refused` if it breaks off, or they can't be read.

    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    is_whole = False
    try:
        for line in response:
            field, _, data = line.partition(b":")
            if field != b"data" or not data.strip():
                continue
            if data.strip() == b"[DONE]":
                is_whole = True
                continue
            yield (event := _object(data))
            is_whole = is_whole or "error" in event
    except (ValueError, OSError, HTTPException) as error:
        raise Refused(502, f"the model's answer broke off: {error}") from error
    if not is_whole:
        raise Refused(502, "the model's answer broke off")


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("it isn't a JSON object")
    return value


def check_messages(messages: Any) -> None:
    """Raise `ValueError` unless these are messages of the chat API, each with a role and text."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise ValueError("'messages' must be a list of messages")
    for number, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise ValueError(f"messages[{number}] has no role")
        content = message.get("content")
        is_call = content is None and message["role"] == "assistant"
        if not (isinstance(content, str) or is_call or _is_parts(content)):
            raise ValueError(f"the content of messages[{number}] must be text or a list of parts")


def _is_parts(content: Any) -> bool:
    """Whether it is a list of parts of a message, those of type `text` with their text."""
    return isinstance(content, list) and all(
        isinstance(part, dict) and (part.get("type") != "text" or isinstance(part.get("text"), str))
        for part in content
    )


def _names() -> set[str]:
    return {f"[{name}]" if ":" in name else name for name in LOOPBACK}


def _spelled(host: str) -> str:
    """A Host in one spelling: clients omit the port of HTTP, and names have no case."""
    return host.lower().removesuffix(":80")


def _error(status: int, message: str) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "code": status}}


def _reason(text: str) -> str:
    """The message in a server's error."""
    try:
        error = json.loads(text)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (ValueError, KeyError, TypeError):
        return text[:500]


def _policy(page: str) -> str:
    """A Content-Security-Policy that allows the page's own script and style alone, by digest."""

    def digests(tag: str) -> str:
        parts = findall(f"<{tag}>(.*?)</{tag}>", page, DOTALL)
        return " ".join(
            f"'sha256-{b64encode(sha256(p.encode()).digest()).decode()}'" for p in parts
        )

    return (
        f"default-src 'none'; script-src {digests('script')}; style-src {digests('style')}; "
        "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
