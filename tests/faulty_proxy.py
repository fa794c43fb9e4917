"""An HTTP proxy before a server that cuts, delays, corrupts and refuses at random."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("cut", "half", "delay", "corrupt", "forbid", "fail", "lose")


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server on this machine.

    share: how many of the requests go wrong, from 0 to 1. part: of their paths, so that others
    don't. seen: counts faults, and methods. requests: method and path of each.
    """

    daemon_threads = True

    def __init__(self, port: int, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.share, self.part = 0.0, ""
        self.faults: tuple[str, ...] = FAULTS
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.requests: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing when a client is gone."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        proxy = self.server
        proxy.requests.append((self.command, self.path))
        is_wrong = proxy.random.random() < proxy.share and proxy.part in self.path
        fault = proxy.random.choice(proxy.faults) if is_wrong else ""
        proxy.seen.update([fault, self.command])
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "cut":
            self.close_connection = True
            return
        if fault in ("forbid", "fail", "lose"):
            code = {"forbid": 403, "fail": 503, "lose": 404}[fault]
            self._send(code, {}, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        if fault == "delay":
            time.sleep(0.1)
        behind = http.client.HTTPConnection("127.0.0.1", proxy.behind)
        behind.request(self.command, self.path, body, dict(self.headers))
        answer = behind.getresponse()
        data = answer.read()
        if fault == "corrupt" and data:
            place = proxy.random.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        self._send(answer.status, dict(answer.getheaders()), data, half=fault == "half")
        behind.close()

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on

    def _send(self, code: int, headers: dict[str, str], data: bytes, half: bool = False) -> None:
        self.send_response_only(code)
        given = {
            k: v for k, v in headers.items() if k.lower() not in ("connection", "transfer-encoding")
        }
        if self.command != "HEAD":
            given = {k: v for k, v in given.items() if k.lower() != "content-length"}
            given["Content-Length"] = str(len(data))
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        self.close_connection |= half

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def proxy_before(port: int, seed: int = 0) -> Iterator[Proxy]:
    """A proxy before the server at a port."""
    with Proxy(port, seed) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=[0.01])
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
