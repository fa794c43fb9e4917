"""The web app: a page, and OpenAI's chat completions with the sources in an extra field."""

import json
import time
import traceback
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from re import DOTALL, findall
from typing import Any

import msgspec
from anyio.to_thread import current_default_thread_limiter
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from finery.rows import Conversation
from finery_retrieve.serve.upstream import Refused, Upstream
from finery_serve.standalone_server import LOOPBACK, error_body
from finery_serve.web import Guard, content_policy, error_response, read_json

MAX_BODY_BYTES = 4 * 2**20
"""Bytes of a request that is read."""
THREADS = 500
"""Answers that are waited for at once."""
COMPLETIONS, MODELS = "/v1/chat/completions", "/v1/models"
PATHS = f"/, /health, {MODELS} and {COMPLETIONS}"
Source = dict[str, Any]
PromptFunction = Callable[[Conversation], tuple[Conversation, list[Source]]]
"""Makes the messages for the model, and their sources in the order of their labels."""


def make_app(
    name: str, prompted: PromptFunction, upstream: Upstream, host: str, port: int, key: str | None
) -> Guard:
    """The app. name: of the model in the API, and the title of the page."""
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    policy = content_policy(_digests(page, "script"), _digests(page, "style"), "data:")

    async def show_page(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(_: Request) -> Response:
        model = {"id": name, "object": "model", "created": 0, "owned_by": "finery", "title": name}
        return JSONResponse({"object": "list", "data": [model]})

    async def complete(request: Request) -> Response:
        body = await _read_body(request)

        def answer() -> Response:
            messages, sources = _prompt(prompted, body)
            response = upstream.open(messages, body)
            if body.get("stream"):
                events = _stream(upstream, response, name, sources)
                return StreamingResponse(events, media_type="text/event-stream")
            return JSONResponse({**upstream.read(response), "model": name, "sources": sources})

        return await run_in_threadpool(answer)

    routes = [
        Route("/", show_page), Route("/health", health), Route(MODELS, models),
        Route(COMPLETIONS, complete, methods=["POST"]),
    ]  # fmt: skip
    handlers: dict[Any, Any] = {Refused: _refusal, HTTPException: _no_such_path}
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=_lifespan)
    names = (f"[{name}]" if ":" in name else name for name in LOOPBACK)
    hosts = [f"{name}:{port}" for name in names] if host in LOOPBACK else None
    return Guard(app, hosts, ("http", "https"), key)


@asynccontextmanager
async def _lifespan(_: Starlette) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    yield


async def _read_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. `Refused` for anything else."""
    text = await read_json(request, MAX_BODY_BYTES)
    try:
        body = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise Refused(400, f"the request isn't JSON: {error}") from error
    if not isinstance(body, dict):
        raise Refused(400, "the request must be a JSON object")
    return body


def _prompt(prompted: PromptFunction, body: Mapping[str, Any]) -> tuple[Conversation, list[Source]]:
    """The messages for the model, and its sources with their labels."""
    messages = body.get("messages")
    try:
        check_messages(messages)
        prompt, sources = prompted(messages or [])
    except Refused:
        raise
    except Exception as error:  # a template can raise anything
        traceback.print_exc()
        raise Refused(500, f"the prompt can't be written: {error}") from error
    return prompt, [{"label": n, **source} for n, source in enumerate(sources, 1)]


async def _stream(
    upstream: Upstream, response: Any, name: str, sources: list[Source]
) -> AsyncIterator[bytes]:
    """Server-sent events: a chunk with the sources, then those of the model."""
    same = {"id": f"chatcmpl-{uuid.uuid4().hex}", "model": name}
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    head = {"object": "chat.completion.chunk", "created": int(time.time()), "choices": [choice]}
    try:
        yield _event({**same, **head, "sources": sources})
        async for event in iterate_in_threadpool(upstream.events(response)):
            yield _event(event if "error" in event else {**event, **same})
    except Refused as error:
        yield _event(error_body(error))
    finally:  # also if the client goes away
        response.close()
    yield b"data: [DONE]\n\n"


def _event(content: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(content)}\n\n".encode()


def check_messages(messages: Any) -> None:
    """Raise `Refused` unless these are messages of the chat API, the user's among them."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise Refused(400, "'messages' must be a list of messages")
    for number, message in enumerate(messages):
        if not isinstance(message.get("role"), str):
            raise Refused(400, f"messages[{number}] has no role")
        content = message.get("content")
        is_call = content is None and message["role"] == "assistant"
        if not (is_call or isinstance(content, str) or _are_parts(content)):
            problem = f"the content of messages[{number}] must be text or a list of parts"
            raise Refused(400, problem)
    if not any(message["role"] == "user" for message in messages):
        raise Refused(400, "'messages' has no user turn, so there is no question")


def _are_parts(content: Any) -> bool:
    return isinstance(content, list) and all(
        isinstance(part, dict) and (part.get("type") != "text" or isinstance(part.get("text"), str))
        for part in content
    )


async def _refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return error_response(error)


async def _no_such_path(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    methods = (error.headers or {}).get("Allow", "")
    problem = f"{request.url.path} takes {methods}" if methods else f"there is only {PATHS}"
    return error_response(Refused(error.status_code, problem), error.headers)


def _digests(page: str, tag: str) -> str:
    """The page's own scripts or styles in a Content-Security-Policy."""
    contents = findall(f"<{tag}>(.*?)</{tag}>", page, DOTALL)
    return " ".join(f"'sha256-{b64encode(sha256(p.encode()).digest()).decode()}'" for p in contents)
