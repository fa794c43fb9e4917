"""The server of the page: who may send requests, and what answers them."""

import hmac
import secrets
import socket
from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finery import FineryError, UsageError
from finery_review.log import Conflict
from finery_review.serving.session import Session, Wish
from finery_serve.processes import PRIVATE_HEADERS

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    **PRIVATE_HEADERS,
}
"""Headers of every answer: only the page's own scripts and styles, no cache, no frames."""


class Guard:
    """Answers 403 to all requests that don't come from the page at the printed address.

    - `Host` must be this server's, so that a foreign name which resolves to 127.0.0.1 (DNS
      rebinding) is refused.
    - `Origin` must be this server's, and a POST must have one.
    - The token is required: first in the address of the page, then in a cookie that other sites'
      requests don't carry and scripts can't read.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self._app = app
        self._token = token
        self._cookie = f"finery-review-{port}"  # cookies are shared by all ports of a host
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._origins = {f"http://{host}" for host in self._hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on or refuse it. Adds `HEADERS` to the answer."""
        if scope["type"] != "http":  # only HTTP is served
            return
        headers = Headers(scope=scope)
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        opening = scope["path"] == "/" and scope["method"] == "GET" and self._is_token(tokens[0])
        refused = self._refusal(scope, headers, opening)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(HEADERS)
                if opening and not refused:
                    answer.append(
                        "Set-Cookie",
                        f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/",
                    )
            await send(message)

        app = PlainTextResponse(refused, status_code=403) if refused else self._app
        await app(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers, opening: bool) -> str:
        """Why a request is refused; empty if it isn't."""
        if headers.getlist("host") not in [[host] for host in self._hosts]:
            return "refused: the Host must be 127.0.0.1 or localhost with the port"
        origins = headers.getlist("origin")
        if any(origin not in self._origins for origin in origins):
            return "refused: the request comes from another page"
        if scope["method"] not in ("GET", "HEAD") and not origins:
            return "refused: the request doesn't say which page it comes from"
        # Other ports of this machine are the same site to a browser, and other origins.
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign and not opening:
            return "refused: the request comes from another page"
        if not opening and not any(map(self._is_token, self._tokens(headers))):
            return "refused: open the address that `finery review` printed, with its token"
        return ""

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())

    def _tokens(self, headers: Headers) -> Iterator[str]:
        """The values of this server's cookie.

        Other local apps' cookies arrive in the same header, with values of any form, and an app
        can set one of this name for another path. So nothing but the name decides: a strict
        parser would drop all cookies after an odd one.
        """
        for line in headers.getlist("cookie"):
            for cookie in line.split(";"):
                name, _, value = cookie.strip().partition("=")
                if name == self._cookie:
                    yield value


def new_token() -> str:
    """A random token of 256 bits."""
    return secrets.token_urlsafe(32)


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
        """A text; empty if it isn't given."""
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
    """An endpoint that answers with JSON. Runs in a separate thread."""

    def endpoint(request: Request) -> Response:
        return _json(lambda: ask(Query(request)))

    return endpoint


def _json(make: Callable[[], Any]) -> Response:
    """The value that `make` returns, or the error that it raises, as JSON."""
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
