"""The model's server that the app asks: llama.cpp's, or one behind an API."""

import json
import os
import urllib.error
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from finery import UsageError
from finery.advanced import redacted_data
from finery.rows import Conversation
from finery_serve.client import events_in, open_url, words_in, words_of
from finery_serve.standalone_server import LOOPBACK
from finery_serve.standalone_server import Refused as Refused

REQUEST_SECONDS = 600.0
"""For the model's server to send the next part of an answer."""
REQUIRED_FIELDS = ("model", "messages", "stream")
"""Parameters of a request that the app sets itself."""
LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")
"""Names of the longest answer: the usual one, and that of OpenAI's newer models."""
FORWARDED_STATUSES = (400, 413, 422, 429)
"""Status codes of the model's server that clients of the app get, too."""


@dataclass(frozen=True)
class Upstream:
    """The model's server.

    base_url: e.g. `http://127.0.0.1:8081/v1`. model: its name there. key: its API key. parameters:
    of the requests that don't set them. extra: override a request's; null removes one. renamed:
    parameters that the server turned out to want under another name.
    """

    base_url: str
    model: str
    key: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def body(self, messages: Conversation, request: Mapping[str, Any]) -> dict[str, Any]:
        """The request to the model's server. A null in the user's request is ignored."""
        user_fields = {
            n: value
            for n, value in request.items()
            if n not in REQUIRED_FIELDS and value is not None
        }
        body = dict(self.parameters)
        for overrides in (user_fields, self.extra):
            if any(
                overrides.get(name) is not None for name in LIMIT_FIELDS
            ):  # servers refuse both at once
                body = {name: value for name, value in body.items() if name not in LIMIT_FIELDS}
            body |= overrides
        body = {self.renamed.get(n, n): value for n, value in body.items() if value is not None}
        stream = bool(request.get("stream"))
        return {**body, "model": self.model, "messages": messages, "stream": stream}

    def open(self, messages: Conversation, request: Mapping[str, Any]) -> Any:
        """The HTTP response to a request for a completion. `Refused` if there is none."""
        body = self.body(messages, request)
        url = f"{self.base_url}/chat/completions"
        is_local = urlsplit(url).hostname in LOOPBACK  # a proxy can't reach it
        try:
            return open_url(url, body, self.key, REQUEST_SECONDS, is_local=is_local)
        except urllib.error.HTTPError as error:
            reason = words_of(error, self.key)
            old_name, new_name = LIMIT_FIELDS
            if (
                error.code == 400 and old_name in body and new_name in reason
            ):  # as finery_openai does
                self.renamed[old_name] = new_name
                return self.open(messages, request)
            status = error.code if error.code in FORWARDED_STATUSES else 502
            raise Refused(status, f"the model's server refuses the request: {reason}") from error
        except (OSError, HTTPException) as error:
            raise Refused(502, f"the model's server doesn't answer: {error}") from error

    def read(self, response: Any) -> dict[str, Any]:
        """A complete completion. `Refused` if it breaks off, or isn't one."""
        try:
            with response:
                answer = self._redacted(json.loads(response.read()))
        except (ValueError, OSError, HTTPException) as error:
            raise Refused(502, f"the model's answer can't be read: {error}") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
            raise Refused(502, f"the model's server sent no answer: {words_in(answer)}")
        return answer

    def events(self, response: Any) -> Iterator[dict[str, Any]]:
        """The events of a streamed completion. `Refused` if it breaks off or can't be read."""
        try:
            for event in events_in(response):
                yield self._redacted(event)
                if "error" in event:
                    return
        except EOFError:
            raise Refused(502, "the model's answer broke off") from None
        except (ValueError, OSError, HTTPException) as error:
            raise Refused(502, f"the model's answer broke off: {error}") from error

    def _redacted(self, value: Any) -> Any:
        """What the server sent, without the key: clients of the app may not know it."""
        return redacted_data(value, {"": self.key or ""})


def address_from_variable(variable: str) -> str | None:
    """The address of a server in an environment variable; None if it isn't set. `UsageError`."""
    address = os.environ.get(variable)
    if not address:
        return None
    url = urlsplit(address)
    if url.scheme not in ("http", "https") or not url.netloc or "@" in url.netloc:
        raise UsageError(
            f"{variable} isn't the address of a server",
            fix="write it with http:// or https://, and no password: http://127.0.0.1:8081/v1",
        )
    return address.rstrip("/")
