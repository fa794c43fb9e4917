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
from typing import Any

from conftest import until


@contextmanager
def serve(gguf: Path) -> Iterator[tuple[str, str]]:
    """(address, model) of a server with the model in a GGUF file."""
    model = str(_folder(gguf))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", run, "serve", model, "--host", "127.0.0.1"]
    log = gguf.with_name(f"serve-{os.getpid()}.log")
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


def _folder(gguf: Path) -> Path:
    """The same model as a Hugging Face folder, created once next to the file.

    Not every version of transformers can serve a GGUF file, which has no `architectures`.
    """
    folder = gguf.with_name("served")
    if not folder.exists():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        made = gguf.with_name(f"folder-{os.getpid()}")
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
        settings = read.config.to_dict()
        settings.pop("quantization_config", None)  # what was read from a GGUF can't be saved
        made_of: Any = AutoModelForCausalLM.from_config
        plain = made_of(type(read.config)(**settings))
        plain.load_state_dict(read.state_dict())
        plain.generation_config.do_sample = True  # else the server ignores a temperature above 0
        plain.bfloat16().save_pretrained(made)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(made)
        made.rename(folder)
    return folder


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health") as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False
