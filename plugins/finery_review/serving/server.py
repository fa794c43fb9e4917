"""The review page's server: rows and decisions as JSON, the page's own files, on loopback."""

import socket
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from finery import FineryError, UsageError
from finery_review.log import Conflict
from finery_review.serving.guard import Guard
from finery_review.serving.session import Session, Wish

MOST_BYTES = 64 * 1024 * 1024
"""The largest decision that is accepted."""
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
PAGE = "index.html"


class TooLarge(Exception):
    """A request's body is larger than `MOST_BYTES`."""


def application(session: Session, title: str, port: int, token: str) -> Guard:
    """The server's application. title: what is reviewed, e.g. `ticket-triage: candidates`."""
    routes = [
        Route("/api/review", _answer(lambda _: {"title": title, **session.overview()})),
        Route("/api/list", _answer(lambda q: session.listed(*map(q.text, FILTERS)))),
        Route("/api/summaries", _answer(lambda q: session.summaries(q.numbers("rows")))),
        Route("/api/row", _answer(lambda q: session.row(q.number("row")))),
        Route("/api/changes", _answer(lambda q: session.changes(*map(q.number, SINCE)))),
        Route("/api/decide", _decide(session), methods=["POST"]),
        *(_file_route(name) for name in _page_files()),
    ]
    return Guard(Starlette(routes=routes), port, token)


FILTERS = ("status", "label", "text", "order")
SINCE = ("generation", "lines")


class Query:
    """The parameters of a request."""

    def __init__(self, request: Request) -> None:
        self._given = request.query_params

    def text(self, name: str) -> str:
        """A text, empty where it isn't given."""
        return self._given.get(name, "")

    def number(self, name: str) -> int:
        """A whole number."""
        return self.numbers(name)[0]

    def numbers(self, name: str) -> list[int]:
        """Whole numbers with commas between them."""
        try:
            return [int(text) for text in self.text(name).split(",")]
        except ValueError:
            raise UsageError(f"'{name}' must be a number", fix="load the page again") from None


def _answer(ask: Callable[[Query], Any]) -> Callable[[Request], Response]:
    """An endpoint, run in a thread of its own, that answers with JSON."""

    def endpoint(request: Request) -> Response:
        return _json(lambda: ask(Query(request)))

    return endpoint


def _json(make: Callable[[], Any]) -> Response:
    """What `make` returns, or the error that it raises, as JSON."""
    try:
        status, content = 200, make()
    except Conflict as error:
        status, content = 409, {**error.to_dict(), "now": error.now}
    except FineryError as error:
        status, content = (422 if error.exit_code == 2 else 500), error.to_dict()
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def _decide(session: Session) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        if request.headers.get("content-type") != "application/json":
            return Response("a decision must be JSON", 415)
        try:
            body = await _body(request)
        except TooLarge:
            return Response("the decision is too large", 413)
        return await run_in_threadpool(_json, lambda: session.decide(_wish(body)))

    return endpoint


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise TooLarge
    return bytes(body)


def _wish(body: bytes) -> Wish:
    try:
        return msgspec.json.decode(body, type=Wish)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise UsageError(f"can't be read: {error}", fix="load the page again") from error


def _page_files() -> list[str]:
    folder = files("finery_review") / "page"
    return sorted(f.name for f in folder.iterdir() if f.name.rpartition(".")[2] in TYPES)


def _file_route(name: str) -> Route:
    content = (files("finery_review") / "page" / name).read_bytes()
    kind = f"{TYPES[name.rpartition('.')[2]]}; charset=utf-8"

    async def endpoint(_: Request) -> Response:
        return Response(content, headers={"Content-Type": kind})

    return Route("/" if name == PAGE else f"/{name}", endpoint)


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1. Port 0 takes any free port."""
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)  # before the address is printed: its reader may connect at once
    except OSError as error:
        listening.close()
        raise UsageError(
            f"can't listen on port {port}: {error.strerror}",
            where="--port",
            fix="choose another, or leave --port out to use any free port",
        ) from error
    return listening


def serve(app: Guard, bound: socket.socket) -> None:
    """Answer requests until Ctrl-C."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none",
        server_header=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    try:
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:  # raised after the server has shut down
        return
