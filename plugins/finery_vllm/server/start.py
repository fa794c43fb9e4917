"""Starts vLLM as a server on this machine. Public for other plugins: `start` and `Server`."""

import http.client
import json
import os
import secrets
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from finery import StepError, load_reference, visible_gpus
from finery_gguf.server.start import free_port, reached_at
from finery_serve.processes import ended_with_us, stop
from finery_vllm.server.command import SERVE, cpu_options, served
from finery_vllm.server.installation import Installation, installation

HOST = "127.0.0.1"
AUTO_DTYPE = "finery_transformers.precision:auto_dtype"
START_SECONDS = 900.0
"""Until a server must answer. Large models load for minutes, and a GPU compiles graphs."""
SHOWN_LINES = 12
"""Lines of vLLM's log that an error shows."""
NEVER = {
    "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CONFIGURE_LOGGING": "1",
    "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
"""Variables of the server: it reports nothing to anybody."""
_OWN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
"""Variables of this Python that another one must not get."""


class Server(NamedTuple):
    """A running server.

    address: e.g. `http://127.0.0.1:8080`. build: which vLLM it is. api_key: what requests must
    present. names: of the models that it serves: the base, then the adapters. log: the file with
    its output.
    """

    address: str
    pid: int
    build: str
    api_key: str | None
    names: tuple[str, ...]
    log: Path
    process: "subprocess.Popen[bytes]"

    def request(
        self, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = 600.0
    ) -> Any:
        """The JSON answer to a GET, or to a POST with `body`. `Refused` for an HTTP error.

        `StepError` with the end of the log if the server has ended.
        """
        try:
            return _requested(self.address, path, body, self.api_key, seconds)
        except (OSError, http.client.HTTPException) as error:
            if self.process.poll() is None:
                raise StepError(
                    f"vLLM doesn't answer: {error}", details=_end_of(self.log)
                ) from error
            raise _ended(self.process, self.log) from error


class Refused(Exception):
    """An HTTP error of the server: its status and its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@contextmanager
def start(
    folder: Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    host: str = HOST,
    port: int | None = None,
    slots: int | None = None,
    context: int | None = None,
    api_key: str | None = None,
    log: Path | None = None,
    alias: str | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Serve a Hugging Face folder, or a folder of `vllm.bundle`, until the block ends.

    adapters: name → folder, in addition to those of a bundle. host: the address to listen on. port:
    default: a free one. slots: sequences that are answered at once. context: tokens of prompt and
    answer; default: the model's. api_key: default: none is needed. log: the file for vLLM's output;
    default: a temporary one. alias: the name of the model, or of a bundle's base; default: `model`
    or the bundle's. options: further arguments of vLLM's server. environment: further variables.

    `StepError` if there is no vLLM, or it ends before it answers, and `UsageError` for a port that
    is in use.
    """
    with tempfile.TemporaryDirectory(prefix="finery-vllm-") as scratch:
        found = installation()
        what = served(folder, alias=alias, adapters=adapters or {}, slots=slots, context=context)
        at = free_port(host, port)
        command = [
            str(found.python), "-m", SERVE, *_dtype(), *what.arguments, "--host", host,
            "--port", str(at), *options,
        ]  # fmt: skip
        written = log or Path(scratch, "vllm.log")
        variables = _environment(found, api_key, offline="--revision" not in what.arguments)
        variables |= {} if visible_gpus() else cpu_options()
        variables |= environment or {}
        # In a session of its own, so that Ctrl-C only reaches this process.
        with written.open("ab") as output:
            process = subprocess.Popen(
                command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        server = Server(
            f"http://{reached_at(host)}:{at}", process.pid, f"vLLM {found.version}", api_key,
            what.names, written, process,
        )  # fmt: skip
        try:
            with ended_with_us(process):
                _wait(server)
                yield server
        finally:
            stop(process)


def _dtype() -> list[str]:
    """On a CPU, what it multiplies: vLLM takes bf16 also where that is slow."""
    name = load_reference(AUTO_DTYPE)()
    return ["--dtype", "float32"] if name == "fp32" and not visible_gpus() else []


def new_key() -> str:
    """An API key for a server that only this process uses."""
    return secrets.token_urlsafe(24)


def _environment(found: Installation, api_key: str | None, *, offline: bool) -> dict[str, str]:
    variables = {name: value for name, value in os.environ.items() if name not in _OWN}
    variables |= NEVER
    if offline:
        variables["HF_HUB_OFFLINE"] = "1"
    # It compiles kernels with tools of its environment.
    variables["PATH"] = os.pathsep.join(
        [str(found.python.parent), os.environ.get("PATH", os.defpath)]
    )
    if api_key is not None:
        variables["VLLM_API_KEY"] = api_key  # a command line can be read by every user
    return variables


def _wait(server: Server) -> None:
    """Wait until the server answers."""
    deadline, pause = time.monotonic() + START_SECONDS, 0.2
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise _ended(server.process, server.log)
        with suppress(OSError, http.client.HTTPException, Refused):
            _requested(server.address, "/health", None, server.api_key, 5.0)
            return
        time.sleep(pause)
    raise StepError(
        f"vLLM didn't answer within {START_SECONDS:.0f} s of its start",
        details=_end_of(server.log),
        fix="serve a smaller model, or look for the reason in its output",
    )


def _requested(
    address: str, path: str, body: Mapping[str, Any] | None, api_key: str | None, seconds: float
) -> Any:
    # Not urllib, which would send the request to a proxy that the environment names.
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=seconds)
    try:
        headers = {"Content-Type": "application/json"}
        if api_key is not None:
            headers["Authorization"] = f"Bearer {api_key}"
        sent = None if body is None else json.dumps(body)
        connection.request("GET" if sent is None else "POST", path, sent, headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if response.status >= 400:
        raise Refused(response.status, _message(content))
    try:
        return json.loads(content) if content else None
    except ValueError:
        return content.decode("utf-8", "replace")


def _message(content: bytes) -> str:
    """The message of an error, which is JSON of one of several forms."""
    try:
        answer = json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")[:500]
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    message = error.get("message", error) if isinstance(error, dict) else error
    return str(message)[:500]


def _ended(process: "subprocess.Popen[bytes]", log: Path) -> StepError:
    code = process.returncode
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return StepError(
        f"vLLM ended {how}",
        details=_end_of(log),
        fix=_fix(log),
    )


def _fix(log: Path) -> str:
    text = _text(log)
    if "out of memory" in text or "No available memory" in text or "KV cache" in text:
        return "use a smaller context (`context:`), or more of the GPU's memory (`gpu_memory:`)"
    return "read its output above; the model's architecture must be one that this vLLM knows"


def _end_of(log: Path) -> list[str]:
    """The lines of vLLM's log that say what happened: errors, else the last ones."""
    lines = [line.rstrip() for line in _text(log).splitlines() if line.strip()]
    wrong = [line for line in lines if "Error" in line or "ERROR" in line]
    return [line[-300:] for line in (wrong or lines)[-SHOWN_LINES:]]


def _text(log: Path) -> str:
    try:
        return log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
