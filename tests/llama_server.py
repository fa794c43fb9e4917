"""llama.cpp's own server on loopback, which renders prompts with its own template engine.

It is started as users' servers are: their own llama-server if there is one, else the wheel's.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from finery_gguf.programs import SERVER, SERVER_WHEEL, user_program
from finery_gguf.server import start

needs_llama_server = pytest.mark.skipif(
    find_spec(SERVER_WHEEL) is None and user_program(SERVER) is None,
    reason=f"needs {SERVER}: pip install {SERVER_WHEEL}",
)


class Llama(NamedTuple):
    """A running server."""

    address: str

    def prompt(self, request: Mapping[str, Any]) -> str:
        """The text that its chat template writes for a request; OSError if it refuses it."""
        return str(self._post("/apply-template", request)["prompt"])

    def tokens(self, text: str) -> list[int]:
        """The prompt's token ids, as the server makes them before it answers."""
        request = {"content": text, "add_special": True, "parse_special": True}
        return list(self._post("/tokenize", request)["tokens"])

    def answers(self, request: Mapping[str, Any]) -> bool:
        """Whether it answers a chat request with one token; OSError if it refuses it.

        A model of random weights may answer with what its format doesn't allow: that is no refusal.
        """
        try:
            posted = self._post("/v1/chat/completions", {**request, "max_tokens": 1})
        except OSError as error:
            if "model produced output that does not match" not in str(error):
                raise
            return True
        return bool(posted["usage"]["completion_tokens"])

    def _post(self, path: str, request: Mapping[str, Any]) -> dict[str, Any]:
        data = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"}
        posted = urllib.request.Request(self.address + path, data, headers)
        try:
            with urllib.request.urlopen(posted, timeout=60) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            raise OSError(error.read().decode("utf-8", "replace")) from error
        return answer


@contextmanager
def serve(gguf: Path, context: int = 256) -> Iterator[Llama]:
    """A server of a GGUF, which uses one thread and no GPU."""
    with start(gguf, context=context, threads=1, gpu=False) as server:
        yield Llama(server.address)
