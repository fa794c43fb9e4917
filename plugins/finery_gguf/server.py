"""A running llama.cpp server: the user's llama-server, or that of the wheel xllamacpp.

Input: a GGUF. Output: the address of a server on this machine, which ends with the `with` that
started it, and also if this process is killed. `start` is public for other plugins.
"""

import http.client
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from socket import SHUT_RDWR
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from finery import StepError, outside_key
from finery.advanced import cpu_count
from finery_gguf.llama import Gguf
from finery_gguf.programs import SERVER, VARIABLE, WHEELS, server_build, user_program
from finery_gguf.slots import Raw, Row, cut_at_stop, seed_of
from finery_serve.client import Client
from finery_serve.processes import Address, ServerProgram, is_for_another_cpu, log_file

CONTEXT = 4096
"""Tokens of a slot by default."""
ALL_LAYERS = 999
LOCAL_PAGES = "localhost"
"""For llama.cpp: only web pages of this machine may read the answers of a server without a key.

By default it lets every page that a user opens do so. It is given by a variable of the environment,
which builds that don't know it ignore.
"""
SAMPLING = {"temperature": "--temp", "repeat_penalty": "--repeat-penalty"}
"""Defaults for requests that omit a value: name → the option of llama-server."""
_SECONDS = 600.0  # for a server to load its model
_ERROR = re.compile(r"^[\d.]+ E ")
"""Prefix of error lines in llama.cpp's output."""
_WHEEL = (sys.executable, "-P", str(Path(__file__).with_name("child.py")))
"""The wheel's server as a program, by its path, so that it imports nothing of finery."""


class Server(NamedTuple):
    """A running server. address: e.g. `http://127.0.0.1:8080`. build: which llama.cpp it is.

    log: the file with its output.
    """

    address: str
    pid: int
    build: str
    log: Path


@contextmanager
def start(
    file: Path,
    *,
    port: int | None = None,
    slots: int = 1,
    context: int | None = None,
    api_key: str | None = None,
    log: Path | None = None,
    alias: str | None = None,
    threads: int | None = None,
    gpu: bool = True,
    host: str = "127.0.0.1",
    template: str | None = None,
    sampling: Mapping[str, float] | None = None,
    adapter: Path | None = None,
) -> Iterator[Server]:
    """A llama.cpp server with a GGUF on this machine, until the `with` ends.

    It is the user's llama-server, if `FINERY_LLAMA_CPP` or the PATH names one, else that of the
    wheel xllamacpp. It also ends if this process is killed.
    port: any free one by default. slots: requests that are answered at once. context: tokens of
        each slot, 4,096 by default; llama.cpp lowers it to what the model was trained with.
        api_key: what requests must send; none by default. log: a file for the server's output, by
        default a temporary one. alias: the model's name in the API. threads: by default, one per
        core. gpu: whether a build with a GPU backend may use it. host: the address to listen on.
        template: a chat template that replaces the file's own. sampling: how to answer requests
        that don't say, by names in `SAMPLING`; by default as llama.cpp or the file's metadata say.
        adapter: a LoRA adapter, as GGUF.
    Raises `StepError` with the server's last lines if it ends before it answers, and `UsageError`
    for a port that is in use.
    """
    for needed in (file, adapter):
        if needed is not None and not needed.is_file():
            raise StepError("the GGUF file was not found", where=str(needed))
    build, own = server_build(), user_program(SERVER)
    command = [str(own.path)] if own else _WHEEL
    at = Address(host, port or 0).free()
    with log_file(log) as output:
        options = ["--model", str(file), "--host", host, "--port", str(at.port), "--jinja"]
        options += ["--parallel", str(slots), "--ctx-size", str((context or CONTEXT) * slots)]
        options += ["--threads", str(threads or cpu_count())]
        options += ["--n-gpu-layers", str(ALL_LAYERS)] if gpu else ["--device", "none"]
        options += ["--alias", alias] if alias else []
        options += ["--lora", str(adapter)] if adapter is not None else []
        if template is not None:
            template_file = output.with_suffix(".jinja")
            template_file.write_text(template, encoding="utf-8")
            options += ["--chat-template-file", str(template_file)]
        for name, value in (sampling or {}).items():
            options += [SAMPLING[name], f"{value:g}"]
        program = ServerProgram(
            build, [*command, *options], _environment(api_key), _SECONDS, _ERROR, _fix
        )
        client = Client(at.url, api_key, seconds=5.0)
        with program.running(output, lambda: client.is_up("/health") or None) as (process, _):
            yield Server(client.address, process.pid, build, output)


def _environment(api_key: str | None) -> dict[str, str]:
    """The variables of the server. The key is one, since other users can read arguments."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_ARG_")}
    variables.pop("LLAMA_API_KEY", None)
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    if api_key is None:
        return variables | {"LLAMA_ARG_CORS_ORIGINS": LOCAL_PAGES}
    return variables | {"LLAMA_API_KEY": api_key}


def _fix(status: int, _log: str) -> str:
    if is_for_another_cpu(status):
        return f"set {VARIABLE} to a llama.cpp built for this machine, or to `{WHEELS}`"
    return "check that the GGUF is complete and that the model fits into memory"


# -- rows that it answers at the same time ---------------------------------------------------------


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
