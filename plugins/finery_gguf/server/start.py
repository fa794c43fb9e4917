"""Start a llama.cpp server, wait until it answers, and end it."""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from finery import StepError, UsageError, cpu_count
from finery_gguf.programs import (
    SERVER,
    VARIABLE,
    WHEELS,
    Program,
    how_ended,
    is_for_another_cpu,
    user_program,
    wheel_build,
)

HOST = "127.0.0.1"
CONTEXT = 4096
"""Tokens of a slot, if nobody says."""
ALL_LAYERS = 999
LOCAL_PAGES = "localhost"
"""For llama.cpp: only web pages of this machine may read the answers of a server without a key.

Else it lets every page that a user opens do so. It is given by a variable of the environment, which
builds that don't know it ignore.
"""
SAMPLING = {"temperature": "--temp", "repeat_penalty": "--repeat-penalty"}
"""How requests are answered that don't say: name → the option of llama-server."""
_SECONDS = 600.0  # for a server to load its model
_GRACE = 8.0  # seconds to end before it is killed
_LAST_LINES = 8
_ERROR = re.compile(r"[\d.]+ E ")
"""How llama.cpp begins the lines of errors."""
_LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Without the proxy that the environment may name."""


class Server(NamedTuple):
    """A running server. address: e.g. `http://127.0.0.1:8080`. build: which llama.cpp it is.

    pid: of the process that ends the server when it ends; the server itself, or its parent.
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
    flash_attention: bool | None = None,
    host: str = HOST,
    template: str | None = None,
    sampling: Mapping[str, float] | None = None,
) -> Iterator[Server]:
    """A llama.cpp server with a GGUF on this machine, until the `with` ends.

    It is the user's llama-server, if `FINERY_LLAMA_CPP` or the PATH names one, else that of the
    wheel xllamacpp. It also ends if this process is killed.
    port: any free one by default. slots: requests that are answered at once. context: tokens of
        each slot, 4,096 by default; llama.cpp lowers it to what the model was trained with.
        api_key: what requests must send; none by default. log: a file for the server's output, by
        default a temporary one. alias: the model's name in the API. threads: by default, one per
        core. gpu: whether a build with a GPU backend may use it. flash_attention: llama.cpp decides
        by default. host: the address to listen on. template: a chat template that replaces the
        file's own. sampling: how to answer requests that don't say, by names in `SAMPLING`; by
        default as llama.cpp or the file's metadata say.
    Raises `StepError` with the server's last lines if it ends before it answers, and `UsageError`
    for a port that is in use.
    """
    if not file.is_file():
        raise StepError("the GGUF file was not found", where=str(file))
    own = user_program(SERVER)
    with _log_file(log) as output:
        asked = _Asked(
            str(file), host, free_port(host, port), slots, (context or CONTEXT) * slots, alias,
            threads or cpu_count(), gpu, flash_attention, template, dict(sampling or {}),
        )  # fmt: skip
        build = f"{SERVER} {own.build}" if own else wheel_build()
        with _process(asked, own, api_key, output) as process:
            address = f"http://{reached_at(host)}:{asked.port}"
            pid = _wait_until_up(process, address, build, output)
            yield Server(address, pid, build, output)


class _Asked(NamedTuple):
    """What to serve and how; `context` is that of all slots together."""

    model: str
    host: str
    port: int
    slots: int
    context: int
    alias: str | None
    threads: int
    gpu: bool
    flash_attention: bool | None
    template: str | None
    sampling: dict[str, float]

    def arguments(self, template: Path) -> list[str]:
        """The options of llama-server. template: a file for the template, if there is one."""
        options = ["--model", self.model, "--host", self.host, "--port", str(self.port)]
        options += ["--parallel", str(self.slots), "--ctx-size", str(self.context), "--jinja"]
        options += ["--threads", str(self.threads)]
        options += ["--n-gpu-layers", str(ALL_LAYERS)] if self.gpu else ["--device", "none"]
        if self.flash_attention is False:
            options += ["--flash-attn", "off"]
        if self.template is not None:
            template.write_text(self.template, encoding="utf-8")
            options += ["--chat-template-file", str(template)]
        for name, value in self.sampling.items():
            options += [SAMPLING[name], f"{value:g}"]
        return options + (["--alias", self.alias] if self.alias else [])


@contextmanager
def _log_file(log: Path | None) -> Iterator[Path]:
    """The file for the server's output."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        yield log
        return
    with tempfile.TemporaryDirectory(prefix="finery-server-") as folder:
        yield Path(folder) / "server.log"


@contextmanager
def _process(
    asked: _Asked, own: Program | None, api_key: str | None, log: Path
) -> Iterator["subprocess.Popen[str]"]:
    """The process with the server, see `child`. It ends when its stdin closes."""
    job = {**asked._asdict(), "origins": None if api_key else LOCAL_PAGES}
    if own:
        job = {"program": [str(own.path), *asked.arguments(log.with_suffix(".jinja"))]}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_ARG_")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("LLAMA_API_KEY", None)
    if api_key is not None:
        environment["LLAMA_API_KEY"] = api_key  # other users can read a program's arguments
    else:
        environment["LLAMA_ARG_CORS_ORIGINS"] = LOCAL_PAGES
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "finery_gguf.server.child"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True,
            env=environment, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(f"{json.dumps(job)}\n")
                process.stdin.flush()
            yield process
        finally:
            _end(process)


def _end(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()


def reached_at(host: str) -> str:
    """Where this machine reaches a server that listens on `host`, as a part of an address."""
    host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def free_port(host: str, port: int | None) -> int:
    """`port`, or any free one of an address. `UsageError` if it can't be used."""
    try:
        family = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0][0]
    except socket.gaierror as error:
        raise UsageError(
            f"{host!r} is no address of this machine: {error.strerror}", where="--host",
            fix="name an address of this machine, e.g. 0.0.0.0 for all of them",
        ) from error  # fmt: skip
    with socket.socket(family) as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((host, port or 0))
        except OSError as error:
            raise UsageError(
                f"port {port or 0} of {host} can't be used: {error.strerror}",
                fix="choose another one, or end the program that uses it",
            ) from error
        return int(free.getsockname()[1])


def _wait_until_up(process: "subprocess.Popen[str]", address: str, build: str, log: Path) -> int:
    """Wait until the server answers; its process id."""
    deadline = time.monotonic() + _SECONDS
    while not _is_up(address):
        if process.poll() is not None:
            raise _ended(process, build, log)
        if time.monotonic() > deadline:
            raise StepError(
                f"{build} doesn't answer after {_SECONDS:.0f} seconds", details=_last_lines(log)
            )
        time.sleep(0.02)
    if process.poll() is not None:  # another program answers there
        raise _ended(process, build, log)
    assert process.stdout is not None
    return int(process.stdout.readline())


def _ended(process: "subprocess.Popen[str]", build: str, log: Path) -> StepError:
    """The error for a server that ended while it was starting."""
    assert process.stdout is not None
    told = process.stdout.read().split()
    status = int(told[1]) if len(told) > 1 else process.returncode
    fix = "check that the GGUF is complete and that the model fits into memory"
    if is_for_another_cpu(status):
        fix = f"set {VARIABLE} to a llama.cpp built for this machine, or to `{WHEELS}`"
    return StepError(
        f"{build} ended while it was starting: {how_ended(status)}",
        details=_last_lines(log), fix=fix,
    )  # fmt: skip


def _last_lines(log: Path) -> list[str]:
    """The end of the log, only the errors if it has any."""
    lines = log.read_text("utf-8", "replace").strip().splitlines()
    return ([line for line in lines if _ERROR.match(line)] or lines)[-_LAST_LINES:]


def _is_up(address: str) -> bool:
    try:
        with _LOCAL.open(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
