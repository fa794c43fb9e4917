"""An HTTP client for servers that aren't trusted."""

import importlib
import time
import zlib
from typing import Any

from openai import DefaultAsyncHttpxClient

from finery import StepError, UsageError
from finery_openai.faults import Fault

MOST_BYTES = 8 * 2**20
"""Size limit of an uncompressed response, some twenty times the size of the longest real ones."""
MOST_REDIRECTS = 5
CONNECT_SECONDS = 10.0
"""How long to wait for a connection."""
_COMPRESSED = frozenset({"gzip", "x-gzip", "deflate"})
_REPLACED_HEADERS = frozenset(
    {"content-encoding", "content-length", "content-type", "transfer-encoding"}
)
"""Headers that don't apply to an uncompressed body. The encoding is always UTF-8."""

ARRIVALS = "finery_arrivals"
"""The extension of a response with (`time.perf_counter()`, bytes so far) of each part."""

answered: set[str] = set()
"""Servers that have answered this process, each as scheme, host and port."""


class CautiousClient(DefaultAsyncHttpxClient):
    """An HTTP client that limits the size of responses and stays on one server.

    `send` raises `Fault` for a response that is too large or has an unknown encoding, and for a
    redirect to another server.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(
            timeout=_httpx().Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            follow_redirects=False,
            headers={"Accept-Encoding": "gzip, deflate"},
        )

    async def send(self, request: Any, **options: Any) -> Any:
        """Send a request, and follow redirects on the same server."""
        options.update(stream=True, follow_redirects=False)
        for _ in range(MOST_REDIRECTS):
            response = await super().send(request, **options)
            answered.add(_origin(request.url))
            try:
                following = response.next_request
                if following is None or following.method != request.method:
                    return await _read_body(response)
            finally:
                await response.aclose()
            if not _is_same_server(request.url, following.url):
                path = following.url.path.removesuffix("/chat/completions")
                raise Fault(
                    UsageError(
                        f"{_origin(request.url)} redirects to {_origin(following.url)}, but finery "
                        "sends prompts only to the server in the recipe",
                        fix="if you trust that server, set base_url: "
                        f"{_origin(following.url)}{path}",
                    ),
                    ends=True,
                )
            request = following
        raise Fault(StepError(f"{_origin(request.url)} redirects without end"), ends=True)


def has_answered(server: str) -> bool:
    """Whether a server has answered this process."""
    return _origin(_httpx().URL(server)) in answered


def is_unreachable(error: BaseException | None) -> bool:
    """Whether an error of the HTTP library means that the connection failed."""
    httpx = _httpx()
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError))


async def _read_body(response: Any) -> Any:
    """The response with its uncompressed body."""
    headers = [
        (name, value)
        for name, value in response.headers.multi_items()
        if name not in _REPLACED_HEADERS
    ]
    return type(response)(
        response.status_code,
        headers=[*headers, ("content-type", "application/json")],
        content=await _body(response),
        request=response.request,
        extensions=response.extensions,
    )


async def _body(response: Any) -> bytes:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in _COMPRESSED | {"identity", ""}:
        raise _unusable_response(
            response, f"an answer in an unknown encoding: {encoding[:30]}", again=True
        )
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32) if encoding in _COMPRESSED else None
    body, arrivals = bytearray(), list[tuple[float, int]]()
    response.extensions[ARRIVALS] = arrivals
    try:
        async for chunk in response.aiter_raw():
            room = MOST_BYTES + 1 - len(body)
            body += unpacker.decompress(chunk, room) if unpacker else chunk[:room]
            arrivals.append((time.perf_counter(), len(body)))
            if len(body) > MOST_BYTES:
                raise _unusable_response(response, f"an answer of more than {MOST_BYTES >> 20} MiB")
    except zlib.error as error:
        raise _unusable_response(response, f"a damaged answer ({error})", again=True) from None
    return bytes(body)


def _unusable_response(response: Any, problem: str, *, again: bool = False) -> Fault:
    problem = f"{_origin(response.request.url)} sent {problem}"
    fix = "check that base_url names an API that is compatible with OpenAI's"
    return Fault(StepError(problem, fix=fix), again=again)


def _is_same_server(url: Any, target: Any) -> bool:
    """Whether two URLs have the same origin, or the second adds TLS to the first."""
    if _origin(url) == _origin(target):
        return True
    with_tls = (url.scheme, target.scheme) == ("http", "https")
    return with_tls and url.host == target.host and url.port == target.port is None


def _origin(url: Any) -> str:
    port = "" if url.port is None else f":{url.port}"
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{url.scheme}://{host}{port}"


def _httpx() -> Any:
    """The HTTP library that the openai library uses: its name depends on the version."""
    return importlib.import_module(DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0])
