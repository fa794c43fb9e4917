"""A client of a server's HTTP API: JSON, and answers as they are written (SSE).

Public: `open_url` and `words_of`, which keep a key with the server that it is for, and `events_in`.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any

from finery import StepError
from finery.advanced import redacted


class _OneServer(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: urllib would send the key to whatever host it names."""

    def redirect_request(self, *_: Any) -> None:
        """None, so that the answer is an HTTPError."""


_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}), _OneServer)
"""Without the proxy that the environment may name: the server is on this machine."""
_ANY = urllib.request.build_opener(_OneServer)
SECONDS = 600.0
"""For the server to send the next part of an answer."""
BROKEN_OFF = "the server's answer broke off"
AGAIN = "send the request again; if the server has ended, start it again"


class Refused(StepError):
    """An HTTP error of a server. status: e.g. 404. words: its message."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(f"the server refuses the request: {words}")
        self.status, self.words = status, words


class Client:
    """Requests to one server. key: its API key. seconds: for the next part of an answer."""

    def __init__(self, address: str, key: str | None = None, seconds: float = SECONDS) -> None:
        self.address = address
        self._key = key
        self._seconds = seconds

    def get(self, path: str) -> Any:
        """The JSON at a path.

        `Refused` with the server's message, and `StepError` if there is no complete answer.
        """
        return _json(self.send(path))

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers a request. Raises as `get`."""
        return _json(self.send(path, body))

    def send(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """The answer to a GET, or to a POST with a body, as it comes. Raises as `get`."""
        with self._open(path, body) as response, _reading():
            content: bytes = response.read()
            return content

    def is_up(self, path: str) -> bool:
        """Whether the server answers at a path, without an error."""
        with suppress(StepError), self._open(path, None):
            return True
        return False

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer. Closing the iterator ends it. Raises as `get`."""
        with self._open(path, {**body, "stream": True}) as response, _reading():
            for event in events_in(response):
                if "error" in event:
                    raise StepError(f"the server ended the answer: {words_in(event)}")
                yield event

    def _open(self, path: str, body: Mapping[str, Any] | None) -> Any:
        try:
            return open_url(self.address + path, body, self._key, self._seconds)
        except urllib.error.HTTPError as error:
            with _reading():
                raise Refused(error.code, words_of(error, self._key)) from error
        except (OSError, HTTPException) as error:
            raise StepError(f"the server doesn't answer: {error}") from error


def open_url(
    url: str, body: Mapping[str, Any] | None, key: str | None, seconds: float, *,
    is_local: bool = True,
) -> Any:  # fmt: skip
    """The response to a GET, or to a POST with a body. Raises as urllib, also for a redirect."""
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    return (_LOCAL if is_local else _ANY).open(request, timeout=seconds)


def events_in(response: Any) -> Iterator[dict[str, Any]]:
    """The events of a streamed answer, of which `[DONE]` must be the last.

    Raises as http.client and json, and `EOFError` for an answer that breaks off between two events.
    https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    for line in response:
        field, _, data = line.decode("utf-8", "replace").partition(":")
        if field != "data" or not data.strip():
            continue
        if data.strip() == "[DONE]":
            return
        event = json.loads(data)
        if not isinstance(event, dict):
            raise ValueError("an event isn't a JSON object")
        yield event
    raise EOFError


def words_of(error: urllib.error.HTTPError, key: str | None) -> str:
    """What a server's error says, without the key, which it may repeat. Raises `OSError`."""
    text = error.read().decode("utf-8", "replace")
    if target := error.headers.get("Location"):
        text = f"it redirects to {target.partition('?')[0]}, and redirects aren't followed"
    return redacted(words_in(text, None), {"": key or ""})[:500]


@contextmanager
def _reading() -> Iterator[None]:
    """Raise `StepError` for an answer that breaks off, or that isn't JSON."""
    try:
        yield
    except EOFError:
        raise StepError(BROKEN_OFF, fix=AGAIN) from None
    except (OSError, HTTPException) as error:
        raise StepError(f"{BROKEN_OFF}: {error}", fix=AGAIN) from error
    except ValueError as error:
        raise StepError(f"the server's answer isn't JSON: {error}") from error


def _json(content: bytes) -> Any:
    with _reading():
        return json.loads(content)


def words_in(answer: Any, most: int | None = 500) -> str:
    """The message in a server's error. most: characters of it."""
    with suppress(ValueError):
        answer = json.loads(answer) if isinstance(answer, str) else answer
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:most]
