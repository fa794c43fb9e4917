"""A client of a server's HTTP API: JSON, and answers as they are written (SSE)."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from finery import StepError

_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxy that the environment may name: the server is on this machine."""
SECONDS = 600.0
"""For the server to send the next part of an answer."""


class Client:
    """Requests to one server. key: its API key. seconds: for the next part of an answer."""

    def __init__(self, address: str, key: str | None = None, seconds: float = SECONDS) -> None:
        self.address = address
        self._key = key
        self._seconds = seconds

    def get(self, path: str) -> Any:
        """The JSON at a path. `StepError` with the server's words if it refuses."""
        with self._open(path, None) as response:
            return json.load(response)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON that answers a request. Raises as `get`."""
        with self._open(path, body) as response:
            return json.load(response)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The events of a streamed answer. Closing the iterator ends the request. Raises as `get`.

        https://html.spec.whatwg.org/multipage/server-sent-events.html
        """
        with self._open(path, {**body, "stream": True}) as response:
            for line in response:
                _, found, data = line.decode("utf-8", "replace").partition("data:")
                if found and data.strip() not in ("", "[DONE]"):
                    event = json.loads(data)
                    if "error" in event:
                        raise StepError(f"the server ended the answer: {_words(event)}")
                    yield event

    def _open(self, path: str, body: Mapping[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers)
        try:
            return _LOCAL.open(request, timeout=self._seconds)
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            raise StepError(f"the server refuses the request: {_words(text)}") from error
        except OSError as error:
            raise StepError(f"the server doesn't answer: {error}") from error


def _words(answer: Any) -> str:
    """The message in a server's error."""
    with suppress(ValueError):
        answer = json.loads(answer) if isinstance(answer, str) else answer
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:500]
