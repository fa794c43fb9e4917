"""Reaches the model: starts llama-server with the GGUF of the bundle, or names the API's server."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from finery_retrieve.serve.app.server import Unusable, Upstream, address_in

PROGRAM = "LLAMA_SERVER"
"""The environment variable that names a llama-server that isn't on the PATH."""
_WAIT = 600.0  # seconds for a model to load
_GRACE = 8.0  # seconds to end before it is killed
_LAST_LINES = 8
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def reached(
    model: Mapping[str, Any], folder: Path, ended: Callable[[], object]
) -> Iterator[Upstream]:
    """The model's server, until the `with` ends. Raises `Unusable`.

    model: of `settings.json`. ended: called in another thread when llama-server has ended.
    """
    if "arguments" in model:
        refuse_base_url()
        with _llama(list(model["arguments"]), folder, ended) as (address, key):
            yield Upstream(f"{address}/v1", str(model["name"]), key, model["parameters"])
    else:
        yield behind_api(model)


def behind_api(model: Mapping[str, Any]) -> Upstream:
    """A model behind an API. `BASE_URL` replaces its address. `Unusable` without its key."""
    key = require(model["api_key"])
    address = address_in("BASE_URL") or str(model["base_url"]).rstrip("/")
    return Upstream(address, str(model["name"]), key, model["parameters"], model["extra"])


def refuse_base_url() -> None:
    """Raise `Unusable` if `BASE_URL` names a server, and a GGUF answers."""
    if os.environ.get("BASE_URL"):
        raise Unusable("BASE_URL is set, but the GGUF of the bundle answers", fix="unset BASE_URL")


def require(variable: str | None) -> str | None:
    """The API key in an environment variable; None if none is needed. `Unusable` without it."""
    if variable and not os.environ.get(variable):
        what = f"the environment variable {variable} with an API key is missing"
        raise Unusable(what, fix="set it")
    return os.environ[variable] if variable else None


@contextmanager
def _llama(
    arguments: list[str], folder: Path, ended: Callable[[], object]
) -> Iterator[tuple[str, str]]:
    """(The address of a llama-server, its key), until the `with` ends."""
    named = os.environ.get(PROGRAM, "llama-server")
    program = shutil.which(named)
    if program is None:
        raise Unusable(
            f"{named} was not found: install llama.cpp so that llama-server is on the PATH, or set "
            f"{PROGRAM} to it"
        )
    port, key = _free_port(), secrets.token_urlsafe(32)
    command = [program, *arguments, "--host", "127.0.0.1", "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_ARG_")}
    with tempfile.TemporaryFile("w+b") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**environment, "LLAMA_API_KEY": key}, start_new_session=True,
            preexec_fn=_dies_with_parent(),
        )  # fmt: skip
        try:
            _wait_until_up(process, f"http://127.0.0.1:{port}", log)
            Thread(target=_watch, args=[process, ended], daemon=True).start()
            yield f"http://127.0.0.1:{port}", key
        finally:
            _end(process)


def _watch(process: "subprocess.Popen[bytes]", ended: Callable[[], object]) -> None:
    process.wait()
    ended()


def _wait_until_up(process: "subprocess.Popen[bytes]", address: str, log: Any) -> None:
    deadline = time.monotonic() + _WAIT
    while not _is_up(address):
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").strip().splitlines()[-_LAST_LINES:]
            ended = "didn't answer in time" if process.poll() is None else "ended while it started"
            raise Unusable("\n  ".join([f"llama-server {ended}:", *lines]), code=1)
        time.sleep(0.1)


def _is_up(address: str) -> bool:
    try:
        with _LOCAL.open(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _dies_with_parent() -> Callable[[], object] | None:
    """What ends a child when this process is killed; None on systems other than Linux."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    death, end = 1, int(signal.SIGTERM)  # PR_SET_PDEATHSIG
    return lambda: prctl(death, end)
