"""A stand-in for Ollama, which can't be installed where these tests run. It is not Ollama.

It is a program with the two commands and the few calls of the API that finery uses, written from
the source of Ollama 0.33.0-rc2 (fb30760). Like Ollama, it keeps models in OLLAMA_MODELS and answers
with a llama.cpp server. What Ollama does otherwise than its source says isn't found by it.

STANDIN, a variable of the environment, has it misbehave: `dies`, `silent`, `refuses` (the import),
`renders` (with a renderer of its own). STANDIN_VERSION is the version that it claims to be.
"""

import hashlib
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = "0.33.0"
FAULT = os.environ.get("STANDIN", "")
SERVER_DEFAULTS: dict[str, Any] = {
    "num_predict": -1, "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0,
    "typical_p": 1.0, "repeat_last_n": 64, "repeat_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "seed": -1, "num_ctx": 4096,
}  # fmt: skip
"""api/types.go: DefaultOptions."""
Json = dict[str, Any]


def write_program(folder: Path) -> Path:
    """Write the program `ollama` into a folder, which is to be put on the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "ollama"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    program.chmod(0o755)
    return folder


def main(arguments: list[str]) -> None:
    """Run a command."""
    if arguments == ["--version"]:
        print(f"Warning: could not connect to a running Ollama instance\n{_own_version()}")
    elif arguments == ["serve"]:
        serve()
    elif arguments[:1] == ["create"]:
        create(arguments[1], Path(arguments[3]))
    else:
        sys.exit(f"Error: unknown command {arguments}")


def _own_version() -> str:
    return f"Warning: client version is {os.environ.get('STANDIN_VERSION', VERSION)}"


# -- ollama create ---------------------------------------------------------------------------------


def create(name: str, modelfile: Path) -> None:
    """cmd/cmd.go: CreateHandler. The file is sent as a blob, then the model is created."""
    from finery_ollama.modelfile import read_modelfile

    if FAULT == "refuses":
        sys.exit("gathering model components\nError: 400 Bad Request: unknown model architecture")
    body: Json = {"model": name, "parameters": {}}
    for command, value in read_modelfile(modelfile.read_text()):
        if command == "FROM":
            content = Path(value).resolve().read_bytes()
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            _post(f"/api/blobs/{digest}", content)
            body["files"] = {Path(value).name: digest}
        elif command == "PARAMETER stop":
            body["parameters"].setdefault("stop", []).append(value)
        elif command.startswith("PARAMETER "):
            body["parameters"][command.removeprefix("PARAMETER ")] = float(value)
        else:
            body[command.lower()] = value
    _post("/api/create", json.dumps(body).encode())


def _post(path: str, content: bytes) -> Any:
    return _request(f"http://{os.environ['OLLAMA_HOST']}{path}", content)


def _request(address: str, content: bytes) -> Any:
    sent = urllib.request.Request(address, content, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(sent, timeout=60) as answer:
            text = answer.read()
    except urllib.error.HTTPError as error:
        failure = json.loads(error.read())["error"]
        raise Refused(error.code, str(failure.get("message", failure))) from error
    return json.loads(text) if text else None


# -- ollama serve ----------------------------------------------------------------------------------


class Refused(Exception):
    """An error to answer with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def serve() -> None:
    """cmd/cmd.go: RunServer. SIGTERM ends it; the llama.cpp server ends with it."""
    host, _, port = os.environ["OLLAMA_HOST"].rpartition(":")
    if FAULT == "dies":
        sys.exit(f"Error: listen tcp {host}:{port}: bind: address already in use")
    (Path.home() / ".ollama").mkdir(parents=True, exist_ok=True)  # its key pair
    (Path.home() / ".ollama" / "id_ed25519").touch()
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


class Store:
    """The one model that was created, and the llama.cpp server that answers for it."""

    def __init__(self) -> None:
        self.model: Json = {}
        self.stack = ExitStack()
        self.loaded = False

    def blob(self, digest: str) -> Path:
        """Where a blob is."""
        return Path(os.environ["OLLAMA_MODELS"], "blobs", digest.replace(":", "-"))

    @cached_property
    def gguf(self) -> Any:
        """The model's file, for its metadata."""
        from finery_gguf.llama import Gguf

        (digest,) = self.model["files"].values()
        return Gguf(self.blob(digest), vocab_only=True)

    @cached_property
    def llama(self) -> str:
        """The address of its llama.cpp server."""
        from finery_gguf.server import start

        self.loaded = True
        running = start(self.gguf.path, context=self.context, threads=1, gpu=False)
        return self.stack.enter_context(running).address

    @property
    def options(self) -> Json:
        """Its defaults: those of the server, and of the Modelfile."""
        return {**SERVER_DEFAULTS, **self.model["parameters"]}

    @property
    def context(self) -> int:
        """server/sched.go: effectiveContext."""
        return int(min(self.options["num_ctx"], self.gguf.n_context))

    @property
    def is_native(self) -> bool:
        """server/routes.go: chatModeForModel."""
        return FAULT != "renders"

    @property
    def thinks(self) -> bool:
        """server/images.go: chatTemplateHasThinkingSupport."""
        chat = self.gguf.chat_template or ""
        return "<think>" in chat and "</think>" in chat

    def request(self, path: str, body: Json) -> Any:
        """What the llama.cpp server answers."""
        return _request(self.llama + path, json.dumps(body).encode())


STORE = Store()


class Handler(BaseHTTPRequestHandler):
    """server/routes.go: GenerateRoutes."""

    def do_GET(self) -> None:
        """Answer a GET."""
        if FAULT == "silent":
            time.sleep(600)
        if self.path == "/api/version":
            self._answer(200, {"version": os.environ.get("STANDIN_VERSION", VERSION)})
        elif self.path == "/api/tags":
            self._answer(200, {"models": [{"name": STORE.model["model"]}] if STORE.model else []})
        elif self.path == "/api/ps":
            model = {"model": STORE.model["model"], "context_length": STORE.context}
            self._answer(200, {"models": [model] if STORE.loaded else []})
        else:
            self._answer(404, {"error": "not found"})

    def do_POST(self) -> None:
        """Answer a POST."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            if self.path.startswith("/api/blobs/"):
                file = STORE.blob(self.path.rpartition("/")[2])
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                self._answer(201, {})
                return
            body = json.loads(content)
            answer = {
                "/api/create": created, "/api/show": shown, "/v1/chat/completions": answered
            }[self.path](body)  # fmt: skip
        except Refused as error:
            self._answer(error.status, {"error": {"message": str(error)}})
        else:
            if body.get("stream") and self.path.startswith("/v1"):
                self._stream(answer)
            else:
                self._answer(200, answer)

    def _answer(self, status: int, body: Json) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, answer: Json) -> None:
        """openai/openai.go: ToStreamChunks, with the whole answer in one chunk."""
        (choice,) = answer["choices"]
        chunks: list[Json] = [
            {"choices": [{"index": 0, "delta": choice["message"], "finish_reason": None}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]},
        ]
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())


def created(body: Json) -> Json:
    """server/create.go: CreateHandler."""
    STORE.model = body
    return {"status": "success"}


def shown(_: Json) -> Json:
    """server/routes.go: GetModelInfo."""
    parameters = []
    for name, value in STORE.model["parameters"].items():
        for one in value if isinstance(value, list) else [value]:
            text = json.dumps(one) if isinstance(one, str) else f"{one:g}"
            parameters.append(f"{name:<30} {text}")
    renderer = "RENDERER gemma4\nPARSER gemma4\n" if FAULT == "renders" else ""
    return {
        "template": STORE.gguf.chat_template if STORE.is_native else "{{ .Prompt }}",
        "system": STORE.model.get("system", ""),
        "parameters": "\n".join(parameters),
        "modelfile": f'# Modelfile generated by "ollama show"\nFROM /blobs/sha256-1\n{renderer}',
    }


def answered(body: Json) -> Json:
    """middleware/openai.go: ChatMiddleware, and server/routes.go: ChatHandler."""
    if body["model"] != STORE.model["model"]:
        raise Refused(404, f"model '{body['model']}' not found")
    messages = list(body["messages"])
    system = STORE.model.get("system")
    if messages[0]["role"] != "system" and system:
        messages.insert(0, {"role": "system", "content": system})
    asked: Json = {"messages": messages}
    if STORE.is_native and STORE.thinks:
        asked["chat_template_kwargs"] = {"enable_thinking": True}
    if body.get("tools"):
        asked["tools"] = [tool_of(tool) for tool in body["tools"]]
    asked["messages"] = next(iter(fitting(asked)))
    if body.get("_debug_render_only"):
        return {"choices": [], "_debug_info": {"rendered_template": rendered(asked)}}
    options = STORE.options | {
        "temperature": body.get("temperature", 1.0), "top_p": body.get("top_p", 1.0),
        "num_predict": body.get("max_tokens", -1),
    }  # fmt: skip
    options["n_predict"] = options.pop("num_predict")
    if not STORE.is_native:
        made = STORE.request("/completion", {"prompt": rendered(asked), **options})
        choice = {"message": {"role": "assistant", "content": made["content"]}}
        reason = "length" if made["stop_type"] == "limit" else "stop"
        return {"choices": [choice | {"index": 0, "finish_reason": reason}]}
    made = STORE.request("/v1/chat/completions", asked | options)
    for choice in made["choices"]:
        thinking = choice["message"].pop("reasoning_content", None)
        choice["message"] |= {"reasoning": thinking} if thinking else {}
    return dict(made)


def rendered(asked: Json) -> str:
    """The prompt's text, by llama.cpp or by a renderer."""
    if STORE.is_native:
        return str(STORE.request("/apply-template", asked)["prompt"])
    return "".join(f"<|turn>{m['role']}\n{m['content']}<turn|>\n" for m in asked["messages"])


def fitting(asked: Json) -> Iterator[list[Json]]:
    """server/routes.go: truncateNativeChatMessages. The first messages are left out silently."""
    messages = asked["messages"]
    for first in range(len(messages)):
        kept = [m for m in messages[:first] if m["role"] == "system"] + messages[first:]
        text = rendered({**asked, "messages": kept})
        if len(STORE.request("/tokenize", {"content": text})["tokens"]) <= STORE.context:
            yield kept
    yield kept


def tool_of(tool: Json) -> Json:
    """api/types.go: Tool. Ollama writes the fields that it knows, in its own order."""
    function = tool["function"]
    given = function.get("parameters", {})
    properties = given.get("properties")
    if properties is not None:
        properties = {name: _property(value) for name, value in properties.items()}
    others = _known(given, "$defs", "items", "required")
    parameters = {"type": given.get("type", ""), **others, "properties": properties}
    named = _known(function, "name", "description")
    return {"type": tool["type"], "function": {**named, "parameters": parameters}}


def _property(schema: Json) -> Json:
    names = ("anyOf", "type", "items", "description", "enum", "properties", "required")
    return _known(schema, *names)


def _known(given: Json, *names: str) -> Json:
    return {name: given[name] for name in names if given.get(name)}


if __name__ == "__main__":
    main(sys.argv[1:])
