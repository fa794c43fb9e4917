"""A running llama.cpp server: the user's llama-server, or that of the wheel xllamacpp.

Input: a GGUF. Output: the address of a server on this machine, which ends with the `with` that
started it, and also if this process is killed. `start` is public for other plugins.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from finery import StepError
from finery.advanced import cpu_count
from finery_gguf.programs import SERVER, VARIABLE, WHEELS, server_build, user_program
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
