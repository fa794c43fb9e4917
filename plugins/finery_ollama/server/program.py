"""The installed Ollama, and a separate server of it for one model.

Its version is in the keys of checks as a fact, see `build_facts`.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from finery import StepError
from finery_serve.client import Client
from finery_serve.processes import Address, ServerProgram, log_file, run_program

PROGRAM = "ollama"
NOWHERE = "127.0.0.1:1"
"""An address at which no Ollama listens, so that the program prints its own version."""
_VERSION = re.compile(r"version is (\S+)")
_SECONDS = 60.0  # for the program to print its version


def program() -> Path:
    """The `ollama` on the PATH. `StepError` without one."""
    path = shutil.which(PROGRAM)
    if path is None:
        raise StepError(
            f"{PROGRAM} isn't on the PATH",
            fix="install Ollama (https://ollama.com/download), or use a llama.bundle of the same "
            "GGUF instead of this folder",
        )
    return Path(path)


def build_facts() -> dict[str, str]:
    """For keys: the version of the Ollama on the PATH; empty without one."""
    path = shutil.which(PROGRAM)
    if path is None:
        return {}
    status = os.stat(path)
    return {f"version of {PROGRAM}": _printed_version(path, status.st_mtime_ns, status.st_size)}


def build_files() -> list[str]:
    """For stamps: where Ollama is or might be installed."""
    return [os.path.abspath(os.path.join(folder, PROGRAM)) for folder in os.get_exec_path()]


@cache
def _printed_version(path: str, _time: int, _size: int) -> str:
    """The output of `ollama --version`, or the reason why it can't run."""
    try:
        ran = run_program([path, "--version"], _SECONDS, OLLAMA_HOST=NOWHERE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    match = _VERSION.search(ran.stdout + ran.stderr)
    return match[1] if match else f"unknown: it ended with exit code {ran.returncode}"


START_SECONDS = 120.0
"""Until the server must answer. It looks for GPUs first."""
HARDWARE = frozenset({
    "OLLAMA_LLM_LIBRARY", "OLLAMA_VULKAN", "OLLAMA_IGPU_ENABLE", "OLLAMA_GPU_OVERHEAD",
    "OLLAMA_SCHED_SPREAD", "OLLAMA_LOAD_TIMEOUT",
})  # fmt: skip
"""Settings of Ollama in the environment that say how to use this machine.

The others would change prompts or answers (OLLAMA_GO_TEMPLATE, OLLAMA_CONTEXT_LENGTH), or lead to
the user's own server and models.
"""
_ERROR = re.compile("^Error|level=ERROR")


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
    host: str = "127.0.0.1",
    port: int | None = None,
    slots: int | None = None,
    log: Path | None = None,
) -> Iterator[Server]:
    """An Ollama with the model of a folder's Modelfile, until the `with` ends.

    It has its own models and settings in a temporary folder, so that the user's Ollama isn't
    affected. The temporary folder needs room for a copy of the GGUF. The server also ends if this
    process is killed.
    name: of the model. host: the address to listen on. port: any free one by default. slots:
        requests that are answered at once, 1 by default. log: a file for the server's output; by
        default a temporary one.
    Raises `StepError` with Ollama's message if it isn't installed, ends before it answers, or
    refuses the model, and `UsageError` for a port that is in use.
    """
    with tempfile.TemporaryDirectory(prefix="finery-ollama-") as scratch, log_file(log) as output:
        address = Address(host, port or 0).free().url
        environment = _environment(Path(scratch), address.removeprefix("http://"), slots)
        ollama = ServerProgram(
            "Ollama", [str(program()), "serve"], environment, START_SECONDS, _ERROR,
            lambda _status, _log: "read its output above; run `ollama serve` to see whether it "
            "starts by itself",
        )  # fmt: skip
        client = Client(address, seconds=5.0)
        with ollama.running(output, lambda: _version_at(client)) as (process, version):
            if client.get("/api/tags").get("models"):  # it was given an empty folder for models
                raise StepError(
                    f"another Ollama answers at {address}, so nothing was imported",
                    fix="run this again; with --port, choose another port",
                )
            _create(name, folder, ollama, Path(scratch, "create.log"))
            yield Server(address, process.pid, version)


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


def _version_at(client: Client) -> str | None:
    """The version of the Ollama at an address; None until one answers."""
    with suppress(StepError, ValueError):
        answer = client.get("/api/version")
        return str(answer["version"]) if isinstance(answer, dict) and "version" in answer else None
    return None


def _create(name: str, folder: Path, ollama: ServerProgram, log: Path) -> None:
    """Import the folder's model, as its RUN.md says to do it."""
    with log.open("wb") as output:
        ran = subprocess.run(
            [program(), "create", name, "-f", "Modelfile"], cwd=folder, env=ollama.environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if ran.returncode != 0:
        raise StepError(
            f"`ollama create {name} -f Modelfile` ended with exit code {ran.returncode}",
            where=str(folder),
            details=ollama.last_lines(log),
            fix="read its output above; the temporary folder (TMPDIR) needs room for a copy of the "
            "GGUF, and the Modelfile may need a later Ollama",
        )
