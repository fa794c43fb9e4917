"""Starts an Ollama of its own for one model, and ends it."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from finery import StepError
from finery_gguf.server.start import free_port
from finery_ollama.server.program import program
from finery_serve.client import Client
from finery_serve.processes import ended_with_us, stop

HOST = "127.0.0.1"
START_SECONDS = 120.0
"""Until the server must answer. It looks for GPUs first."""
SHOWN_LINES = 8
"""Lines of Ollama's output that an error shows."""
HARDWARE = frozenset({
    "OLLAMA_LLM_LIBRARY", "OLLAMA_VULKAN", "OLLAMA_IGPU_ENABLE", "OLLAMA_GPU_OVERHEAD",
    "OLLAMA_SCHED_SPREAD", "OLLAMA_LOAD_TIMEOUT",
})  # fmt: skip
"""Settings of Ollama in the environment that say how to use this machine.

The others would change prompts or answers (OLLAMA_GO_TEMPLATE, OLLAMA_CONTEXT_LENGTH), or lead to
the user's own server and models.
"""


class Server(NamedTuple):
    """A running Ollama. address: e.g. `http://127.0.0.1:8080`. version: e.g. `0.33.0`."""

    address: str
    pid: int
    version: str


@contextmanager
def start(
    folder: Path,
    name: str,
    *,
    host: str = HOST,
    port: int | None = None,
    slots: int | None = None,
    log: Path | None = None,
) -> Iterator[Server]:
    """An Ollama with the model of a folder's Modelfile, until the `with` ends.

    It has models and settings of its own in a temporary folder, so that the user's Ollama isn't
    touched. The temporary folder needs room for a copy of the GGUF. It also ends if this process is
    killed.
    name: of the model. host: the address to listen on. port: any free one by default. slots:
        requests that are answered at once, 1 by default. log: a file for the server's output; by
        default a temporary one.
    Raises `StepError` with Ollama's words if it isn't installed, ends before it answers, or refuses
    the model, and `UsageError` for a port that is in use.
    """
    ollama = program()
    with tempfile.TemporaryDirectory(prefix="finery-ollama-") as scratch:
        output = log or Path(scratch, "server.log")
        listening = f"{f'[{host}]' if ':' in host else host}:{free_port(host, port)}"
        environment = _environment(Path(scratch), listening, slots)
        process = _process(ollama, environment, output)
        try:
            with ended_with_us(process):
                version = _wait_until_up(process, f"http://{listening}", output)
                _create(ollama, name, folder, environment)
                yield Server(f"http://{listening}", process.pid, version)
        finally:
            stop(process)


def _process(ollama: Path, environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """`ollama serve`, in a session of its own, so that Ctrl-C reaches only this process."""
    with log.open("ab") as file:
        try:
            return subprocess.Popen(
                [ollama, "serve"], env=environment, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise StepError(
                f"Ollama can't run: {error.strerror}", where=str(ollama),
                fix="install an Ollama for this machine (https://ollama.com/download)",
            ) from error  # fmt: skip


def _environment(scratch: Path, listening: str, slots: int | None) -> dict[str, str]:
    """The variables of a server that has only what is in `scratch`."""
    passed = {
        key: value
        for key, value in os.environ.items()
        if key in HARDWARE or not key.startswith(("OLLAMA_", "LLAMA_ARG_"))
    }
    return passed | {
        "HOME": str(scratch),  # Ollama writes a key pair into it, and reads settings
        "OLLAMA_HOST": listening,
        "OLLAMA_MODELS": str(scratch / "models"),
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NUM_PARALLEL": str(slots or 1),
        "OLLAMA_NO_CLOUD": "1",
        "NO_PROXY": "*",  # `ollama create` would ask a proxy for the server
        "no_proxy": "*",
    }


def _wait_until_up(process: "subprocess.Popen[bytes]", address: str, log: Path) -> str:
    """Wait until the server answers; its version."""
    client = Client(address, seconds=min(5.0, START_SECONDS))
    deadline = time.monotonic() + START_SECONDS
    version = None
    while version is None:
        version = _version_at(client)
        if process.poll() is not None:
            raise _ended(process.returncode, log)
        if version is None and time.monotonic() > deadline:
            raise StepError(
                f"Ollama didn't answer within {START_SECONDS:.0f} s of its start",
                details=_last_lines(log.read_text("utf-8", "replace")),
                fix="look for the reason in its output",
            )
        time.sleep(0.05)
    if client.get("/api/tags").get("models"):  # this one was given an empty folder for models
        raise StepError(
            f"another Ollama answers at {address}, so nothing was imported",
            fix="run this again; with --port, choose another port",
        )
    return version


def _version_at(client: Client) -> str | None:
    """The version of the Ollama at an address; None until one answers."""
    with suppress(StepError, ValueError):
        answer = client.get("/api/version")
        return str(answer["version"]) if isinstance(answer, dict) and "version" in answer else None
    return None


def _ended(code: int, log: Path) -> StepError:
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return StepError(
        f"`ollama serve` ended {how} while it was starting",
        details=_last_lines(log.read_text("utf-8", "replace")),
        fix="read its output above; run `ollama serve` to see whether it starts by itself",
    )


def _create(ollama: Path, name: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Import the folder's model, as its RUN.md says to do it."""
    command = [str(ollama), "create", name, "-f", "Modelfile"]
    ran = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if ran.returncode != 0:
        raise StepError(
            f"`ollama create {name} -f Modelfile` ended with exit code {ran.returncode}",
            where=str(folder),
            details=_last_lines(ran.stdout.decode("utf-8", "replace")),
            fix="read its output above; the temporary folder (TMPDIR) needs room for a copy of the "
            "GGUF, and the Modelfile may need a later Ollama",
        )


def _last_lines(text: str) -> list[str]:
    """The end of Ollama's output, only the errors if it has any."""
    lines = [line.rstrip()[-300:] for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error") or "level=ERROR" in line]
    return (errors or lines)[-SHOWN_LINES:]
