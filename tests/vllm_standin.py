"""A stand-in for vLLM's server, which isn't installed where most tests run. It is not vLLM.

It listens where its arguments say, and answers every GET with an empty body, as vLLM does at
/health. It shows how finery starts, finds and ends a server, and nothing about vLLM itself.
"""

import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def write_environment(folder: Path) -> Path:
    """An environment whose Python starts the stand-in. FINERY_VLLM must name it."""
    from vllm_models import environment

    python = environment(folder) / "bin" / "python"
    python.unlink()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    python.chmod(0o755)
    return folder


def main(arguments: list[str]) -> None:
    """Serve until a signal."""
    host, port = (arguments[arguments.index(name) + 1] for name in ("--host", "--port"))
    ThreadingHTTPServer.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


class Handler(BaseHTTPRequestHandler):
    """Answers a GET."""

    def do_GET(self) -> None:
        """Say that it is up."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    main(sys.argv[1:])
