"""What the web apps of finery share: who may send requests, how much is read, and the server.

Public for other plugins, which import it when they serve, since it needs starlette and uvicorn.
"""

from collections.abc import Collection, Mapping
from typing import Any

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from finery_serve.standalone_server import Refused, error_body, has_key

PRIVATE_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer: no cache, no frames, no other sites."""


class Guard:
    """Refuses requests for foreign names of this machine, those of other web pages, and those
    without the key. Adds `PRIVATE_HEADERS` to answers.

    A name that resolves to 127.0.0.1 (DNS rebinding) would let any page read answers.

    hosts: the names with ports that are answered; None: any. schemes: of pages that may send
    requests. key: what requests to /v1/ must send; None if they needn't.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Collection[str] | None,
        schemes: Collection[str],
        key: str | None = None,
    ) -> None:
        self._app, self._schemes, self._key = app, schemes, key
        self._hosts = None if hosts is None else {_normalise_host(host): host for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] not in ("http", "lifespan"):  # only HTTP is served
            return
        app, headers = self._app, dict(PRIVATE_HEADERS)
        try:
            if scope["type"] == "http":
                headers |= self.check(scope, Headers(scope=scope))
        except Refused as error:
            app = self.refusal(error)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        await app(scope, receive, with_headers)

    def check(self, scope: Scope, headers: Headers) -> Mapping[str, str]:
        """Headers of the answer to a request. `Refused` if it isn't answered."""
        hosts = [_normalise_host(host) for host in headers.getlist("host")]
        if self._hosts is not None and (len(hosts) != 1 or hosts[0] not in self._hosts):
            names = " or ".join(self._hosts.values())
            raise Refused(403, f"the Host must be {names}")
        for origin in headers.getlist("origin"):
            scheme, _, host = origin.partition("://")
            if scheme not in self._schemes or [_normalise_host(host)] != hosts:
                raise Refused(403, "the request comes from another web page")
        is_open = self._key is None or not scope["path"].startswith("/v1/")
        if not (is_open or has_key(headers.get("authorization", ""), self._key or "")):
            raise Refused(401, "invalid API key: send the one that the server printed")
        return {}

    def refusal(self, error: Refused) -> Response:
        """The answer to a refused request."""
        return error_response(error)


def _normalise_host(host: str) -> str:
    """A Host in one spelling: names have no case, and clients omit the port of HTTP."""
    return host.lower().removesuffix(":80")


def error_response(error: Refused, headers: Mapping[str, str] | None = None) -> Response:
    """An error as OpenAI's API has it."""
    return JSONResponse(error_body(error), error.status, headers)


async def read_json(request: Request, limit: int) -> bytes:
    """The body of a request with JSON.

    `Refused` for another type, and for more than `limit` bytes, whatever its length is said
    to be.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "a request must be JSON: Content-Type: application/json")
    body = bytearray()
    length = int(request.headers.get("content-length", "0"))  # h11 has checked that it is a number
    try:
        if length <= limit:
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    break
    except ClientDisconnect:
        raise Refused(400, "the request broke off") from None
    if max(length, len(body)) > limit:
        raise Refused(413, f"a request may have {limit:,} bytes")
    return bytes(body)


def content_policy(script: str, style: str, images: str) -> str:
    """A Content-Security-Policy that allows a page these scripts, styles and images alone."""
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src {images}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def server_of(app: Any) -> uvicorn.Server:
    """The server that runs an app. h11 refuses a Content-Length that isn't a number of digits."""
    return uvicorn.Server(uvicorn.Config(
        app, http="h11", ws="none", lifespan="on", log_level="warning", access_log=False,
        server_header=False, timeout_graceful_shutdown=2,
    ))  # fmt: skip
