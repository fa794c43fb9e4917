"""Access control: requests need the token, this server's own name, and its own page as origin."""

import hmac
import secrets
from collections.abc import Iterator
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
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
        if scope["type"] != "http":  # nothing else is served
            return
        headers = Headers(scope=scope)
        opening = self._opens(scope)
        refused = self._refused(scope, headers, opening)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.update(HEADERS)
                if opening and not refused:
                    answer.append("Set-Cookie", self._set_cookie())
            await send(message)

        app = PlainTextResponse(refused, status_code=403) if refused else self._app
        await app(scope, receive, guarded)

    def _refused(self, scope: Scope, headers: Headers, opening: bool) -> str:
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

    def _opens(self, scope: Scope) -> bool:
        """Whether the request is for the page, with the token in its address."""
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return scope["path"] == "/" and scope["method"] == "GET" and self._is_token(tokens[0])

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())

    def _tokens(self, headers: Headers) -> Iterator[str]:
        """The values of this server's cookie.

        Other local apps' cookies arrive in the same header, with values of any form, and an app
        can set one of this name for another path. So nothing but the name decides: a strict
        parser would drop all cookies after an odd one.
        """
        for line in headers.getlist("cookie"):
            for part in line.split(";"):
                name, _, value = part.strip().partition("=")
                if name == self._cookie:
                    yield value

    def _set_cookie(self) -> str:
        return f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"


def new_token() -> str:
    """A random token of 256 bits."""
    return secrets.token_urlsafe(32)
