"""The server of the page: who may send requests, and what answers them."""

import hmac
import socket
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from finery import FineryError, UsageError
from finery_review.log import Conflict
from finery_review.serving.session import Session, Wish
from finery_serve.standalone_server import Refused
from finery_serve.web import Guard, content_policy, read_json, server_of


class ReviewGuard(Guard):
    """Also answers 403 to all requests that don't come from the page at the printed address.

    - A POST must have an `Origin`.
    - The token is required: first in the address of the page, then in a cookie that other sites'
      requests don't carry and scripts can't read.
    """

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        super().__init__(app, [f"127.0.0.1:{port}", f"localhost:{port}"], ("http",))
        policy = content_policy("'self'", "'self'", "'self'")
        self._headers = {"Content-Security-Policy": policy}
        self._token = token
        self._cookie = f"finery-review-{port}"  # cookies are shared by all ports of a host

    def check(self, scope: Scope, headers: Headers) -> Mapping[str, str]:
        """Also refuse a request without the token, or of a page that isn't known to be this one."""
        super().check(scope, headers)
        if scope["method"] not in ("GET", "HEAD") and not headers.getlist("origin"):
            raise Refused(403, "the request doesn't say which page it comes from")
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        if scope["path"] == "/" and scope["method"] == "GET" and self._is_token(tokens[0]):
            cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
            return {**self._headers, "Set-Cookie": cookie}
        # Other ports of this machine are the same site to a browser, and other origins.
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(403, "the request comes from another web page")
        if not any(map(self._is_token, self._tokens(headers))):
            raise Refused(403, "open the address that `finery review` printed, with its token")
        return self._headers

    def refusal(self, error: Refused) -> Response:
        """A text, since people may see it in their browser."""
        return _refused(error, self._headers)

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


MOST_BYTES = 64 * 1024 * 1024
"""The largest decision that is accepted."""
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
PAGE = "index.html"


def application(session: Session, title: str, port: int, token: str) -> ReviewGuard:
    """The server's application. title: what is reviewed, e.g. `ticket-triage: candidates`."""
    routes = [
        Route("/api/review", _answer(lambda _: {"title": title, **session.overview()})),
        Route("/api/list", _answer(lambda q: session.listed(*(q.get(f, "") for f in FILTERS)))),
        Route("/api/summaries", _answer(lambda q: session.summaries(_numbers(q, "rows")))),
        Route("/api/row", _answer(lambda q: session.row(_numbers(q, "row")[0]))),
        Route(
            "/api/changes", _answer(lambda q: session.changes(*(_numbers(q, s)[0] for s in SINCE)))
        ),
        Route("/api/decide", _decide(session), methods=["POST"]),
        *(_file_route(name) for name in _page_files()),
    ]
    return ReviewGuard(Starlette(routes=routes), port, token)


FILTERS = ("status", "label", "text", "order", "check")
SINCE = ("generation", "lines")


def _numbers(query: QueryParams, name: str) -> list[int]:
    """The whole numbers of a parameter, with commas between them."""
    try:
        return [int(text) for text in query.get(name, "").split(",")]
    except ValueError:
        raise UsageError(f"'{name}' must be a number", fix="load the page again") from None


def _answer(ask: Callable[[QueryParams], Any]) -> Callable[[Request], Response]:
    """An endpoint that answers with JSON. Runs in a separate thread."""

    def endpoint(request: Request) -> Response:
        return _json(lambda: ask(request.query_params))

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
        try:
            body = await read_json(request, MOST_BYTES)
        except Refused as error:
            return _refused(error)
        return await run_in_threadpool(_json, lambda: session.decide(_wish(body)))

    return endpoint


def _refused(error: Refused, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(f"refused: {error}", error.status, headers)


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


def serve(app: ReviewGuard, bound: socket.socket) -> None:
    """Answer requests until Ctrl-C."""
    try:
        server_of(app).run(sockets=[bound])
    except KeyboardInterrupt:  # raised after the server has shut down
        return
