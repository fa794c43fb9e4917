"""Limits on what the hub sends: it has to keep coming, and facts about repositories are small.

The hub's library waits for ever for a server that sends a byte now and then, and reads any answer
whole.
"""

import importlib
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

from finery import StepError

SECONDS = 60.0
LEAST_BYTES = 64 * 1024
"""So much has to come every `SECONDS`, as long as a response isn't complete."""
MOST_FACTS = 64 * 2**20
"""Size limit in bytes of a response that isn't a file."""


def watch_responses() -> None:
    """Make the hub's library apply the limits to every response of this process."""
    from huggingface_hub import get_session

    client: Any = get_session()
    hooks = client.event_hooks
    if _limit not in hooks["response"]:
        client.event_hooks = {**hooks, "response": [*hooks["response"], _limit]}


def _limit(response: Any) -> None:
    library = type(response).__module__.partition(".")[0]
    response.stream = _limited(library)(response.stream, response.request.url)


@cache
def _limited(library: str) -> Any:
    """A stream of bytes with limits, for the HTTP library of that name."""

    class Limited(importlib.import_module(library).SyncByteStream):  # type: ignore[misc]
        def __init__(self, stream: Any, url: Any) -> None:
            self._stream = stream
            self._host = url.host
            self._most = MOST_FACTS if url.path.startswith("/api/") else None

        def __iter__(self) -> Iterator[bytes]:
            count, window, since = 0, 0, time.monotonic()
            for chunk in self._stream:
                count, window = count + len(chunk), window + len(chunk)
                if self._most is not None and count > self._most:
                    raise StepError(f"{self._host} sent an answer of more than {self._most:,} B")
                if window >= LEAST_BYTES:
                    window, since = 0, time.monotonic()
                elif time.monotonic() - since > SECONDS:
                    raise StepError(
                        f"{self._host} sent less than {LEAST_BYTES:,} B in {SECONDS:g} s",
                        fix="build again later; what was fetched is kept",
                    )
                yield chunk

        def close(self) -> None:
            self._stream.close()

    return Limited
