"""Logs the requests to a server of any kind: a proxy in front of it, for `finery serve --log`."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from finery import UsageError
from finery_data.checks.personal import masked
from finery_serve.client import events_in, words_in
from finery_serve.processes import Address
from finery_serve.request_log import RequestLog
from finery_serve.servers import Running
from finery_serve.standalone_server import Handler, Refused

COMPLETIONS = "/v1/chat/completions"
"""What is logged."""
SECONDS = 600.0
"""For the server to send the next part of an answer."""
MOST_ANSWER = 16 * 2**20
"""Bytes of an answer that are logged."""
HOP_BY_HOP = frozenset({
    "connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host",
    "content-length", "proxy-authorization", "proxy-connection", "accept-encoding", "expect",
})  # fmt: skip
"""Headers that aren't passed on."""
NOT_RETURNED = HOP_BY_HOP - {"content-length"} | {"server", "date"}


class LoggedServer:
    """A server behind the proxy, with its attributes, at the proxy's address."""

    def __init__(self, running: Running, address: str) -> None:
        self._running, self.address = running, address
        page = getattr(running, "page", None)
        self.page = page and str(page).replace(running.address, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._running, name)


@contextmanager
def logged(running: Running, path: Path, address: Address, key: str | None) -> Iterator[Any]:
    """The server with all its requests for completions in a log.

    `UsageError` if the file can't be written, or for a port that is in use.
    """
    try:
        log = RequestLog(path.absolute(), masked)
    except OSError as error:
        raise UsageError(
            f"{path} can't be written: {error.strerror}", where="--log", fix="name another file"
        ) from error
    proxy = _Proxy(address, running.address, key, log)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield LoggedServer(running, Address(address.host, proxy.server_port).url)
    finally:
        proxy.shutdown()
        log.close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: Address, upstream: str, key: str | None, log: RequestLog) -> None:
        self.key, self.log, self.upstream = key or "", log, urlsplit(upstream)
        super().__init__(address, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = address.listening()
        self.server_port = self.socket.getsockname()[1]


class _Handler(Handler):
    """One connection. Without a key, it refuses other web pages, as the server of a bundle."""

    server: _Proxy  # type: ignore[assignment]

    def do_GET(self) -> None:
        """Pass a request on."""
        self._forward(b"")

    do_OPTIONS = do_HEAD = do_GET

    def do_POST(self) -> None:
        """Pass a request on, and log it if it is for a completion."""
        began, body = time.time(), b""
        try:
            body = self._body()
            status, content, problem = self._forward(body)
        except Refused as error:
            self._refuse(error)
            status, content, problem = error.status, b"", str(error)
        if self.path.partition("?")[0] != COMPLETIONS:
            return
        if status in (401, 403):  # who isn't allowed to ask can't fill the log
            body = b""
        if status >= 400:
            problem = problem or words_in(content.decode("utf-8", "replace"))
        self.server.log.add(
            body, status, began, None if problem else lambda: answer_in(content), problem,
            size=len(content),
        )  # fmt: skip

    def _forward(self, body: bytes) -> tuple[int, bytes, str]:
        """(status, the answer, why it isn't complete). `Refused` without an answer."""
        upstream, received, problem = self.server.upstream, bytearray(), ""
        headers = {n: v for n, v in self.headers.items() if n.lower() not in HOP_BY_HOP}
        if headers.get("Origin") == f"http://{self.headers.get('Host')}":
            headers["Origin"] = f"http://{upstream.netloc}"
        self.close_connection = True
        with closing(HTTPConnection(upstream.hostname or "", upstream.port, timeout=SECONDS)) as to:
            try:
                to.request(self.command, self.path, body or None, headers)
                response = to.getresponse()
            except (OSError, HTTPException) as error:
                raise Refused(502, f"the model's server doesn't answer: {error}") from error
            self.send_response(response.status)
            for name, value in response.getheaders():
                if name.lower() not in NOT_RETURNED:
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            try:
                self.end_headers()
                while part := response.read1(65536):
                    self.wfile.write(part)
                    if len(received) <= MOST_ANSWER:
                        received += part
            except (OSError, HTTPException) as error:
                problem = f"the answer broke off: {error}"
            if len(received) > MOST_ANSWER:
                problem = f"the answer has more than {MOST_ANSWER:,} bytes"
            return response.status, bytes(received), problem


def answer_in(content: bytes) -> Mapping[str, Any]:
    """`choices` of a completion, complete or streamed, and `error` if it broke off."""
    if content.lstrip()[:1] == b"{":
        answer = json.loads(content)
        choices = [{**choice} for choice in answer.get("choices") or ()]
        for choice in choices:
            choice.pop("logprobs", None)
        return {"choices": choices}
    merged: dict[int, dict[str, Any]] = {}
    problem = ""
    try:
        for event in events_in(BytesIO(content)):
            problem = words_in(event) if "error" in event else problem
            for part in event.get("choices") or ():
                empty = {"index": part.get("index", 0), "message": {"content": ""}}
                choice = merged.setdefault(part.get("index", 0), empty)
                choice |= {
                    name: value
                    for name, value in part.items()
                    if name not in ("delta", "logprobs") and value is not None
                }
                _add(choice["message"], part.get("delta") or {})
    except EOFError:
        problem = problem or "the answer broke off"
    for choice in merged.values():
        for call in choice["message"].get("tool_calls", ()):
            del call["index"]  # of the stream
    return {"choices": [*merged.values()], **({"error": problem} if problem else {})}


def _add(message: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Extend a message, or a part of one, by what a stream sends next."""
    for name, value in delta.items():
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for piece in value or ():
                call = next((one for one in calls if one["index"] == piece["index"]), None)
                if call is None:
                    call = {"index": piece["index"]}
                    calls.append(call)
                _add(call, piece)
        elif isinstance(value, dict):
            _add(message.setdefault(name, {}), value)
        elif isinstance(value, str) and name not in ("role", "type", "id"):
            message[name] = message.get(name, "") + value
        elif value is not None:
            message[name] = value
