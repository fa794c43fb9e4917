"""A real OpenAI-compatible server on loopback: `transformers serve`."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import until


@contextmanager
def serve(folder: Path) -> Iterator[tuple[str, str]]:
    """(address, model) of a server with the model in a folder."""
    model = str(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", run, "serve", model, "--host", "127.0.0.1"]
    log = folder.with_name(f"serve-{os.getpid()}.log")
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu"], stdout=out, stderr=out,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or _is_up(address), seconds=300)
        assert process.poll() is None, log.read_text()
        yield address, model
    finally:
        process.kill()
        process.wait()
        log.unlink()


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health") as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
