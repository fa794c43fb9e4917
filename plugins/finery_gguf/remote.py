"""Answers several rows at the same time with a llama.cpp server.

It is the user's own or the one from the wheel.
"""

import http.client
import json
import time
from contextlib import AbstractContextManager, ExitStack, suppress
from queue import SimpleQueue
from socket import SHUT_RDWR
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finery import StepError, outside_key
from finery_gguf.llama import Gguf
from finery_gguf.slots import Raw, Row, cut_at_stop, seed_of

if TYPE_CHECKING:
    from finery_gguf.server import Server


SMALLEST_CONTEXT = 2048
_LAST_LINES = 5


class RemoteSlots:
    """A server with a model. Starts with the first row, and restarts if a row needs more context.

    most: maximum number of rows at once. build: name and version of the server, for errors.
    special: whether answers include the text of control tokens.
    """

    def __init__(self, gguf: Gguf, max_rows: int, build: str, *, special: bool) -> None:
        self._gguf = gguf
        self.most = max_rows
        self._special = special
        self._build = build
        self._size = 0
        self._server: Any = None
        self._running = ExitStack()
        self._connections: dict[int, http.client.HTTPConnection] = {}
        self._landed: SimpleQueue[tuple[int, Row, dict[str, Any] | Exception]] = SimpleQueue()

    @property
    def active(self) -> int:
        """The number of rows that are being answered."""
        return len(self._connections)

    def has_room(self, size: int) -> bool:
        """Whether a row that needs a context of `size` tokens can begin now."""
        return self.active < (self.most if size <= self._size else 1)

    def begin(self, number: int, row: Row) -> list[tuple[int, Raw]]:
        """Send a row to the server. Always returns an empty list: answers come from `step`."""
        if row.size > self._size:
            self._restart(max(row.size, SMALLEST_CONTEXT))
        place = urlsplit(self._server.address)
        connection = http.client.HTTPConnection(str(place.hostname), place.port)
        self._connections[number] = connection
        Thread(target=self._ask, args=[connection, number, row], daemon=True).start()
        return []

    def step(self) -> list[tuple[int, Raw]]:
        """Wait for the next answer. `StepError` if the server fails."""
        number, row, answer = self._landed.get()
        self._connections.pop(number).close()
        if isinstance(answer, Exception):
            raise self._failed(answer) from answer
        return [(number, self._raw(row, answer))]

    def clear(self) -> None:
        """Cancel the rows that are being answered."""
        for connection in self._connections.values():
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(SHUT_RDWR)  # the thread that reads from it ends
        self._connections.clear()
        self._landed = SimpleQueue()

    def close(self) -> None:
        """Stop the server."""
        self._size = 0
        self._running.close()

    def _restart(self, size: int) -> None:
        """Restart the server with `size` tokens for each row. No row may be in progress."""
        self._running.close()
        self._server = self._running.enter_context(
            _start_server(self._gguf, slots=self.most, context=size)
        )
        self._size = size

    def _ask(self, connection: http.client.HTTPConnection, number: int, row: Row) -> None:
        """Send the request and queue its answer. Runs in a separate thread for each row."""
        landed, began = self._landed, time.perf_counter()
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/completion", json.dumps(_request(row)), headers)
            response = connection.getresponse()
            content = response.read()
            if response.status != http.client.OK:
                raise OSError(content.decode("utf-8", "replace")[:300])
            landed.put((number, row, {"began": began, **json.loads(content)}))
        except Exception as error:  # raised by `step`, in the thread that waits
            landed.put((number, row, error))

    def _raw(self, row: Row, answer: dict[str, Any]) -> Raw:
        tokens: list[int] = answer["tokens"]
        evaluated = len(tokens)
        while tokens and self._gguf.ends_generation(tokens[-1]):
            tokens = tokens[:-1]
        text = self._gguf.decode(tokens, special=self._special)
        stopped = cut_at_stop(text, row.sampling.stop)
        is_finished = stopped is not None or answer["stop_type"] != "limit"
        first_token = answer["began"] + answer["timings"]["prompt_ms"] / 1000
        return Raw(
            text if stopped is None else stopped, tokens, evaluated, is_finished, first_token
        )

    def _failed(self, error: Exception) -> StepError:
        lines = []
        with suppress(OSError):
            lines = self._server.log.read_text("utf-8", "replace").splitlines()
        return StepError(
            f"{self._build} failed to answer: {error}", details=lines[-_LAST_LINES:],
            fix="check that the model and its context fit into memory; FINERY_GGUF_SLOTS=1 needs "
            "the least",
        )  # fmt: skip


@outside_key
def _start_server(gguf: Gguf, *, slots: int, context: int) -> "AbstractContextManager[Server]":
    """A server. Its build is a fact in the key."""
    from finery_gguf.server import start

    return start(gguf.path, adapter=gguf.adapter, slots=slots, context=context)


def _request(row: Row) -> dict[str, Any]:
    """The body of the request. Of llama.cpp's samplers, it only enables temperature and top-p."""
    sampling = row.sampling
    return {
        "prompt": row.tokens, "n_predict": sampling.max_tokens, "return_tokens": True,
        "temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed_of(row),
        "samplers": ["temperature", "top_p"], "stop": list(sampling.stop), "cache_prompt": True,
        **({} if row.schema is None else {"json_schema": row.schema}),
    }  # fmt: skip
