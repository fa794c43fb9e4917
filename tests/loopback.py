"""HTTP on loopback: requests with exactly these headers, and small servers that answer JSON."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import Any, NamedTuple, TypeVar

S = TypeVar("S", bound=BaseServer)


class Answer(NamedTuple):
    """An HTTP answer. headers: their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def message(self) -> str:
        """The message of an error."""
        return str(self.json()["error"]["message"])

    def events(self) -> list[dict[str, Any]]:
        """The events of a stream."""
        parts = self.body.decode().removesuffix("data: [DONE]\n\n").split("\n\n")
        return [json.loads(part.removeprefix("data: ")) for part in parts if part]


def send(
    port: int, method: str, path: str, headers: Mapping[str, str | None], body: bytes | None
) -> Answer:
    """A request with these headers and no others, not even `Host`. One that is None isn't sent.

    Names of headers may have underscores in place of hyphens.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.putrequest(method, path, skip_host=True)
    for name, value in headers.items():
        if value is not None:
            connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    response = connection.getresponse()
    lowered = {name.lower(): value for name, value in response.getheaders()}
    answer = Answer(response.status, lowered, response.read())
    connection.close()
    return answer


class JsonServer(ThreadingHTTPServer):
    """Answers JSON with JSON, as `reply` says.

    bodies: what it was sent, in order. headers: the last request's, their names in lower case.
    """

    request_queue_size = 512  # with 5, the others of 100 clients try again after seconds

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}

    @property
    def address(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """(status, content) of the answer to a request."""
        raise NotImplementedError


class _Handler(BaseHTTPRequestHandler):
    server: JsonServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers = {k.lower(): v for k, v in self.headers.items()}
        self.server.bodies.append(body)
        status, content = self.server.reply(self.path, body)
        sent = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def in_thread(server: S) -> Iterator[S]:
    """The server, in a thread, until the `with` ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
