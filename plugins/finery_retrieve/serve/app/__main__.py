"""Answers questions about the documents in this folder: `sh run.sh --help`."""

import argparse
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finery_retrieve.serve.app.bundle import opened
from finery_retrieve.serve.app.model import reached, require
from finery_retrieve.serve.app.server import LOOPBACK, App, Server, Unusable, is_not_here

DEFAULT_PORT = 8080
HOST, PORT = "SERVE_HOST", "SERVE_PORT"
"""Environment variables in place of options. Shells and conda set a HOST of their own."""
KEY = "SERVE_KEY"
"""The environment variable with the key for a server that other machines reach."""
FOLDER = Path(__file__).parents[3]


def main() -> int:
    """Serve until Ctrl-C; the exit code."""
    options = _parser().parse_args()
    try:
        with _until_stopped():
            _serve(options.host, options.port)
    except Unusable as error:
        print(": ".join(filter(None, ["error", str(error), error.fix])), file=sys.stderr)
        return error.code
    return 0


def _parser() -> argparse.ArgumentParser:
    environment = os.environ
    parser = argparse.ArgumentParser(
        prog="sh run.sh", description="Answer questions about documents, with their sources."
    )
    parser.add_argument(
        "--host", default=environment.get(HOST, LOOPBACK[0]),
        help=f"address to listen on, or the variable {HOST}; default: {LOOPBACK[0]}. Any that "
        f"other machines reach demands a key: the variable {KEY}, else a new one, which is printed",
    )  # fmt: skip
    parser.add_argument(
        "--port", type=_port, default=environment.get(PORT, str(DEFAULT_PORT)),
        help=f"port, or the variable {PORT}; default: {DEFAULT_PORT}. 0 takes any free one",
    )  # fmt: skip
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 0 to 65535")
    return int(text)


def _serve(host: str, port: int) -> None:
    try:
        bundle = opened(FOLDER)
    except ImportError as error:
        raise Unusable(
            f"the package {error.name} is missing: "
            f"{shlex.quote(sys.executable)} -m pip install -r requirements.txt"
        ) from error
    settings = bundle.settings
    require(settings["index"].get("embedder", {}).get("api_key"))
    key = None if host in LOOPBACK else _key()
    with _listening(host, port) as server:
        print(f"loading {settings['name']} …", file=sys.stderr, flush=True)
        with reached(settings["model"], FOLDER, server.shutdown) as upstream:
            server.app = App(settings["name"], settings["name"], bundle.prompted, upstream, key)
            print(introduction(server), flush=True)
            server.serve_forever()
            raise Unusable("llama-server ended by itself", code=1)


def _key() -> str:
    key = os.environ.get(KEY, "").strip() or secrets.token_urlsafe(32)
    if not key.isascii() or not key.isprintable():
        raise Unusable(f"the variable {KEY} must consist of printable ASCII characters")
    return key


def introduction(server: Server) -> str:
    """Where the page and the API are."""
    lines = [
        f"{server.app.name} answers with sources",
        f"  page  {server.page}",
        f"  API   {server.address}/v1",
        f"  key   {server.app.key or 'none is needed'}",
        "Ctrl-C ends the server.",
    ]
    return "\n".join(lines)


@contextmanager
def _listening(host: str, port: int) -> Iterator[Server]:
    """A server that listens and doesn't answer yet. `Unusable` if it can't."""
    try:
        server = Server(host, port)
    except OSError as error:
        if is_not_here(error):
            raise Unusable(
                f"{host} is not an address of this machine ({error.strerror}): set --host or "
                f"{HOST} to one, e.g. {LOOPBACK[0]}"
            ) from error
        raise Unusable(
            f"port {port} of {host} can't be used: {error.strerror}. End the program that uses it, "
            "or choose another: --port 0 takes any free one"
        ) from error
    with server:
        yield server


@contextmanager
def _until_stopped() -> Iterator[None]:
    """End the `with` at Ctrl-C and at SIGTERM, without an error."""

    def stop(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    # Both, since shells have jobs in the background ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        print("\nthe server has ended", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
