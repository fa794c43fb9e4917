"""Serves the model of this folder with an OpenAI-compatible API: python server.py --help

It needs Python 3.11 and the packages in requirements.txt, and no finery. finery's own web apps
import what they share with it from here.
"""

import argparse
import hmac
import importlib
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any

FOLDER = Path(__file__).absolute().parent
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Hosts that only this machine reaches."""
MAX_BODY_BYTES = 2**20
"""Bytes of a request. A classifier takes 2 seconds for a megabyte; other requests wait for it."""


class Refused(Exception):
    """A request that can't be answered. status: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def error_body(error: Refused) -> dict[str, Any]:
    """An error as OpenAI's API has it."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "code": error.status}}


def has_key(authorization: str, key: str) -> bool:
    """Whether a header `Authorization` has this key."""
    scheme, _, sent = authorization.partition(" ")
    is_same = hmac.compare_digest(sent.strip().encode(), key.encode())
    return is_same and scheme.lower() == "bearer"


def prompt_text(messages: list[dict[str, Any]]) -> str:
    """The text that the model reads: all turns but the system prompt, one below the other."""
    texts = []
    for turn in [turn for turn in messages if turn.get("role") != "system"] or messages:
        content, calls = turn.get("content") or "", turn.get("tool_calls")
        text = content if isinstance(content, str) else json_text(content)
        texts.append(text + (json_text(calls) if calls else ""))
    return "\n".join(texts)


def json_text(value: Any) -> str:
    """A value as JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class Server(ThreadingHTTPServer):
    """The server. key: what requests must send; empty if they needn't.

    log: where requests are logged, a `request_log.RequestLog`; None if they aren't.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, name: str, key: str, log: Any = None) -> None:
        about = json.loads((FOLDER / "model.json").read_text(encoding="utf-8"))
        self.model_name, self.key, self.log = name or about["name"], key, log
        self._abstain_below = about.get("abstain_below")
        for part in about["meta"].get("parts", {}).values():  # of a cascade
            if "module" in part:
                part["answers"] = _module(part["module"]).Answers
        self._answers = _module(about["module"]).Answers(FOLDER / "model", about["meta"])
        self._lock = threading.Lock()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """Listen, without looking up the name of the host."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def choice(self, text: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a text, with the probability that it is right if the model gives one.

        `abstained`: whether that is below the bundle's threshold, if it has one. request: with the
        messages that the text is of, for a cascade, whose `stage` is the model that answered.
        """
        extra: dict[str, Any]
        if hasattr(self._answers, "choice"):
            answer, extra = self._answers.choice(request["messages"], text, request)
            return _choice(answer, extra)
        with self._lock:
            if hasattr(self._answers, "answered"):
                ((answer, probability),) = self._answers.answered([text])
                extra = {"probability": round(probability, 6)}
                if self._abstain_below is not None:
                    extra["abstained"] = probability < self._abstain_below
            else:
                (answer,), extra = self._answers([text]), {}
        return _choice(answer, extra)


def _choice(answer: str, extra: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer}
    return {"index": 0, "message": message, "finish_reason": "stop", **extra}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    server: Server

    def parse_request(self) -> bool:
        """Read a request. Without a key, refuse other web pages and foreign names of this machine.

        A name that resolves to 127.0.0.1 (DNS rebinding) would let any page read answers.
        """
        if not super().parse_request():
            return False
        host, origin = self.headers.get("Host", "").lower(), self.headers.get("Origin")
        is_ours = re.sub(r":\d*\Z", "", host).strip("[]") in (*LOOPBACK, "")
        if self.server.key or (is_ours and origin in (None, f"http://{host}")):
            return True
        self.close_connection = True  # what follows isn't read
        names = f"only requests for {', '.join(LOOPBACK)} are answered"
        self._refuse(Refused(403, f"{names}, not those of other web pages; or set SERVE_KEY"))
        return False

    def do_GET(self) -> None:
        """Answer /health and /v1/models."""
        model = {"id": self.server.model_name, "object": "model", "owned_by": "finery"}
        if self.path == "/health":
            self._send({"status": "ok"})
        elif self.path != "/v1/models":
            self._refuse(Refused(404, f"there is no {self.path}"))
        elif self._is_allowed():
            self._send({"object": "list", "data": [model]})

    def do_POST(self) -> None:
        """Answer /v1/chat/completions, and log that."""
        began, body, status, problem = time.time(), b"", 200, ""
        self._choice: dict[str, Any] | None = None
        try:
            body = self._body()
            if self.path != "/v1/chat/completions":
                raise Refused(404, f"there is no {self.path}")
            if self._is_allowed():
                self._complete(body)
            else:
                body, status, problem = b"", 401, "invalid API key"
        except Refused as error:
            status, problem = error.status, str(error)
            self._refuse(error)
        finally:
            if self.server.log is not None:
                choice = self._choice
                answer = None if choice is None else (lambda: {"choices": [choice]})
                self.server.log.add(body, status, began, answer, problem)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,9}", length) or int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # what follows isn't read
            raise Refused(413, f"Content-Length must be at most {MAX_BODY_BYTES}")
        return self.rfile.read(int(length))

    def _is_allowed(self) -> bool:
        key = self.server.key
        allowed = not key or has_key(self.headers.get("Authorization", ""), key)
        if not allowed:
            self._refuse(Refused(401, "invalid API key"))
        return allowed

    def _complete(self, body: bytes) -> None:
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise Refused(400, f"the body isn't JSON: {error}") from None
        messages = request.get("messages") if isinstance(request, dict) else None
        turns = messages if isinstance(messages, list) else []
        if not turns or not all(isinstance(turn, dict) for turn in turns):
            raise Refused(400, "`messages` must be a list of messages, and not empty")
        try:
            text = prompt_text(turns)
            text.encode()
        except (UnicodeEncodeError, RecursionError):
            problem = "a text holds half of a surrogate pair, or a content is nested too deeply"
            raise Refused(400, problem) from None
        try:
            choice = self._choice = self.server.choice(text, request)
        except Exception as error:
            traceback.print_exc()
            raise Refused(500, f"the model can't answer: {error}") from None
        header = {
            "id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()),
            "model": self.server.model_name,
        }  # fmt: skip
        if request.get("stream"):
            choice_part = {("delta" if key == "message" else key): choice[key] for key in choice}
            event = {**header, "object": "chat.completion.chunk", "choices": [choice_part]}
            self._write(f"data: {json_text(event)}\n\ndata: [DONE]\n\n", "text/event-stream")
            return
        tokens = len(text.split()), len(choice["message"]["content"].split())
        self._send({
            **header,
            "object": "chat.completion",
            "choices": [choice],
            "usage": {
                "prompt_tokens": tokens[0], "completion_tokens": tokens[1],
                "total_tokens": sum(tokens),
            },
        })  # fmt: skip

    def _refuse(self, error: Refused) -> None:
        self._send(error_body(error), error.status)

    def _send(self, value: Any, status: int = 200) -> None:
        self._write(json_text(value), "application/json", status)

    def _write(self, text: str, media: str, status: int = 200) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Print no requests."""


def _module(name: str) -> Any:
    """A module in this folder."""
    sys.dont_write_bytecode = True  # the folder stays as it is
    if str(FOLDER) not in sys.path:
        sys.path.insert(0, str(FOLDER))  # of links, whose targets are elsewhere
    return importlib.import_module(name)


def main() -> None:
    """Serve until Ctrl-C."""
    variable = os.environ.get
    parser = argparse.ArgumentParser(description="Serve the model with an OpenAI-compatible API.")
    parser.add_argument("--host", default=variable("SERVE_HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(variable("SERVE_PORT", "8080")))
    parser.add_argument("--name", default="", help="the model's name in the API")
    parser.add_argument(
        "--log", default=variable("SERVE_LOG", ""), metavar="FILE",
        help="append requests and answers to this file, with personal data masked",
    )  # fmt: skip
    options, key, log = parser.parse_args(), variable("SERVE_KEY", ""), None
    if options.host not in LOOPBACK and not key:
        parser.error(f"set SERVE_KEY, since other machines can reach --host {options.host}")
    if options.log:
        personal, request_log = _module("personal"), _module("request_log")
        try:
            # run.sh has left the folder that the user is in
            log = request_log.RequestLog(
                Path(variable("SERVE_FROM", ""), options.log), personal.masked
            )
        except OSError as error:
            parser.error(f"--log {options.log} can't be written: {error.strerror}")
    server = Server(options.host, options.port, options.name, key, log)
    print(f"{server.model_name}: http://{options.host}:{server.server_port}/v1", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the log is written
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    finally:
        if log is not None:
            log.close()


if __name__ == "__main__":
    main()
