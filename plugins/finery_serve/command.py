"""`finery serve STEP`: an OpenAI-compatible server of a built model, or its import into Ollama."""

import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from click.core import ParameterSource
from msgspec.structs import replace

from finery import Artifact, Bundle, StepError, UsageError
from finery.advanced import (
    in_line,
    json_option,
    matrix_option,
    print_json,
    recipe_and_step,
    shortened,
)
from finery_serve.servers import Running, Serving, names_of

if TYPE_CHECKING:
    from finery.advanced import Graph
    from finery_serve.opening import Opened
    from finery_transformers.frozen.template import ClientFacts

PORT = 8080
KEY_VARIABLE = "SERVE_KEY"
"""The environment variable with the key for a server that other machines reach."""
SERVER_OPTIONS = ("host", "port", "slots", "context", "log")
"""Options of a server that finery starts."""
SHOWN_CHARACTERS = 60
"""Characters of a system message."""
CHECKED_EVERY = 0.5
"""Seconds between two looks at whether the server still runs."""


@click.command("serve")
@recipe_and_step
@matrix_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Any other than this machine's own demands a key: the variable "
    "SERVE_KEY, else a new one, which is printed.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True,
    help="Port; 0 takes any free one.",
)  # fmt: skip
@click.option("--slots", type=click.IntRange(1), help="Requests answered at once. [default: 4]")
@click.option(
    "--context", type=click.IntRange(64), metavar="TOKENS",
    help="Longest conversation with its answer. [default: the model's, at most 8192]",
)  # fmt: skip
@click.option(
    "--log", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Append requests for completions and their answers to FILE, with personal data masked. "
    "data.requests reads it.",
)  # fmt: skip
@click.option(
    "--ollama",
    is_flag=True,
    help="Print how Ollama imports STEP, an ollama.modelfile; in a terminal, offer to do it.",
)
@click.option("--yes", is_flag=True, help="With --ollama: import it without a question.")
@json_option
@click.pass_context
def command(
    called: click.Context,
    step: str,
    recipe: Path,
    overrides: tuple[str, ...],
    host: str,
    port: int,
    slots: int | None,
    context: int | None,
    log: Path | None,
    ollama: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Serve the model or bundle of STEP with an OpenAI-compatible API.

    A GGUF is served by llama.cpp, with the prompts of its training, and greedily unless a request
    says otherwise, as it was evaluated. Ctrl-C ends the server. More in docs/howto/serve.md.
    """
    from finery_serve.opening import open_built, server_for

    if yes and not ollama:
        raise UsageError("--yes only belongs to --ollama", where="--yes", fix="leave it out")
    for name in SERVER_OPTIONS if ollama else ():
        if called.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise UsageError(
                "with --ollama, Ollama's own server answers",
                where=f"--{name}",
                fix="remove it; `num_ctx` in `parameters` of ollama.modelfile sets the context, "
                "and the variable OLLAMA_HOST the address",
            )
    opened = open_built(step, recipe, overrides)
    if ollama:
        import_model(opened, yes=yes, as_json=as_json)
        return
    serve_until_stopped(
        server_for(opened), opened.artifact, opened.name, host=host, port=port, slots=slots,
        context=context, log=log, as_json=as_json,
    )  # fmt: skip


def serve_until_stopped(
    serve: Callable[[Artifact, Serving], AbstractContextManager[Running]],
    artifact: Artifact,
    name: str,
    *,
    host: str,
    port: int,
    slots: int | None = None,
    context: int | None = None,
    log: Path | None = None,
    as_json: bool = False,
) -> None:
    """Serve a model or bundle, print how to talk to it, and wait for Ctrl-C.

    log: the file that requests are logged in.
    `UsageError` for an address that can't be used, before anything is loaded; `StepError` if the
    server ends.
    """
    from finery_serve.guide import request_to, write_request
    from finery_serve.processes import Address, listens
    from finery_serve.standalone_server import LOOPBACK
    from finery_transformers.frozen.template import ClientFacts

    key = None if host in LOOPBACK else _key()
    if port:
        Address(host, port).free()  # before a model is loaded for it
    with _until_stopped(), tempfile.TemporaryDirectory(prefix="finery-serve-") as folder:
        # A bundle is served under the name that its own command has.
        bundle_name = artifact.meta.get("name") if isinstance(artifact, Bundle) else None
        serving = Serving(
            name=str(bundle_name or name), host=host, port=port or None, key=key, slots=slots,
            context=context, log=Path(folder) / "server.log",
        )  # fmt: skip
        click.echo(f"loading {name} …", err=True)
        inner = serving if log is None else replace(serving, host="127.0.0.1", port=None)
        with ExitStack() as stack:
            server = running = stack.enter_context(serve(artifact, inner))
            if log is not None:
                from finery_serve.logged import logged

                running = stack.enter_context(logged(server, log, Address(host, port), key))
            clients = ClientFacts.of(artifact.meta)
            model_name = names_of(running, serving)[-1]
            request = request_to(artifact, model_name, getattr(running, "example", ""))
            file = write_request(Path(folder), request)
            if as_json:
                print_json(
                    {
                        "event": "serving",
                        "address": running.address,
                        "api": f"{running.address}/v1",
                        "key": serving.key,
                        "page": getattr(running, "page", None),
                        "model": model_name,
                        "models": names_of(running, serving),
                        "server": running.build,
                        "pid": running.pid,
                        "system": clients.system or None,
                        "request": request,
                    }
                )
            else:
                click.echo(introduction(running, serving, request, file, clients))
            while listens(server.address):
                time.sleep(CHECKED_EVERY)
            printed = serving.log
            lines = (
                printed.read_text("utf-8", "replace").splitlines()
                if printed and printed.is_file()
                else []
            )
            raise StepError(f"the server ended unexpectedly ({running.build})", details=lines[-10:])


def _key() -> str:
    """The user's own key, or a new one."""
    key = os.environ.get(KEY_VARIABLE, "").strip() or secrets.token_urlsafe(32)
    if not key.isascii() or not key.isprintable():
        raise UsageError(
            f"the variable {KEY_VARIABLE} must consist of printable ASCII characters",
            fix=f"set another key, or unset {KEY_VARIABLE} to have one made",
        )
    return key


def introduction(
    running: Running,
    serving: Serving,
    request: Mapping[str, Any],
    file: Path,
    clients: "ClientFacts",
) -> str:
    """Instructions for talking to the server: address, key, and two examples.

    request: the example, which is also in `file`.
    """
    from finery_serve.guide import curl, is_long, tool_names

    key, address = serving.key or "none", f"{running.address}/v1"
    page: str | None = getattr(running, "page", None)
    system = shortened(in_line(clients.system), SHOWN_CHARACTERS)
    tools = "differ among the training rows: send those that fit the question"
    if not clients.tools_differ:
        names = tool_names(clients.tools)
        tools = f"{names} (a request must send them)" if names else ""
    sure = getattr(running, "abstain_below", None)  # of a classifier
    elsewhere: list[str] = []
    if serving.host in ("0.0.0.0", "::"):
        port = urlsplit(running.address).port
        elsewhere = [f"  others   reach it at http://{socket.gethostname()}:{port}/v1"]
    arguments = ", ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in request.items())
    if is_long(request):
        arguments = f"**json.load(open({json.dumps(str(file))}))"
    lines = [
        f"{serving.name} is served by {running.build}",
        *([f"  page     {page}"] if page else []),
        f"  address  {address}",
        f"  key      {serving.key or 'none is needed'}",
        f"  model    {', '.join(names_of(running, serving))}",
        *([f"  system   {system} (added where a request has none)"] if system else []),
        *([f"  tools    {tools}"] if tools else []),
        *([f"  answers  with `abstained: true` below a probability of {sure:g}"] if sure else []),
        *elsewhere,
        "",
        "With curl:",
        indent(curl(address, request, file, serving.key), "  "),
        "",
        "With the openai package:",
        f'  client = OpenAI(base_url="{address}", api_key="{key}")',
        "  client.chat.completions.create(",
        f"      {arguments}",
        "  )",
        "",
        "Ctrl-C ends the server.",
    ]
    return "\n".join(lines)


@contextmanager
def _until_stopped() -> Iterator[None]:
    """End the `with` at Ctrl-C, SIGTERM and SIGHUP, without an error."""
    from finery_serve.processes import raise_at_signals

    try:
        with raise_at_signals(KeyboardInterrupt()):
            yield
    except KeyboardInterrupt:
        with suppress(OSError):  # the terminal may be closed
            click.echo("\nthe server has ended", err=True)


PROGRAM = "ollama"
STEP_TYPE = "ollama.modelfile"
INSTALL = "install Ollama (https://ollama.com/download)"


def import_model(opened: "Opened", *, yes: bool, as_json: bool) -> None:
    """Print the commands that import and run a model, and run the import if the user wants it.

    yes: run it without a question. `UsageError` for a step that isn't for Ollama, or if Ollama
    is to run and isn't installed. `StepError` if it fails.
    """
    from finery.advanced import linked, shown

    if opened.format != PROGRAM:
        raise UsageError(
            f"'{opened.name}' has the format '{opened.format}', and --ollama takes the folder of "
            f"an {STEP_TYPE}",
            fix=_way_out(opened.graph, opened.name),
        )
    name = str(opened.artifact.meta["name"])
    command = [PROGRAM, "create", name, "-f", "Modelfile"]
    run = str(opened.artifact.meta["run"]).rpartition(" && ")[2]
    folder = Path(linked(str(opened.artifact.path)))
    program = shutil.which(PROGRAM)
    if yes and program is None:
        raise UsageError(
            f"{PROGRAM} isn't on the PATH",
            fix=f"{INSTALL}, or copy the folder to a machine that has it: "
            f"finery export {opened.name} DIR",
        )
    if as_json:
        facts = {"event": "ollama", "model": name, "folder": str(folder), "command": command}
        print_json({**facts, "program": program, "runs": yes})
    else:
        click.echo(f"cd {shlex.quote(shown(folder))}\n{shlex.join(command)}\n{run}")
    if program is None:
        click.secho(
            f"{PROGRAM} isn't on the PATH: {INSTALL} to run these commands", fg="yellow", err=True
        )
    elif yes or (
        not as_json
        and (sys.stdin.isatty() and sys.stdout.isatty())
        and click.confirm(f"Have Ollama import {name} now?", default=True, err=True)
    ):
        ran = subprocess.run([program, *command[1:]], cwd=folder, check=False, stdout=sys.stderr)
        if ran.returncode:
            raise StepError(
                f"{shlex.join(command)} ended with exit code {ran.returncode}",
                where=os.fspath(folder),
                fix="see its message above; Ollama itself must run (`ollama serve`)",
            )
        click.echo(f"{name} is in Ollama: {run}", err=True)


def _way_out(graph: "Graph", step: str) -> str:
    """The step to name instead, or one to add."""
    steps = [node.name for node in graph.nodes.values() if node.use == STEP_TYPE]
    if steps:
        return f"finery serve --ollama {steps[0]}"
    return (
        f"add ollama: {{use: {STEP_TYPE}, gguf: {step}, name: …}} to `export:`, build it, and then "
        "finery serve --ollama ollama"
    )
