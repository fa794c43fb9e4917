"""Serves answers with sources inside finery: a bundle, or a model of `retrieve.model`."""

import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from finery import Artifact, Model, UsageError, cpu_count
from finery_gguf.server import start
from finery_retrieve.index.words import missing
from finery_retrieve.serve.app.bundle import SETTINGS, Opened, opened, opened_from
from finery_retrieve.serve.app.model import behind_api, refuse_base_url, require
from finery_retrieve.serve.app.server import (
    LOOPBACK,
    App,
    Prompt,
    Server,
    Unusable,
    Upstream,
    is_not_here,
)
from finery_retrieve.serve.settings import (
    MAX_TOKENS,
    embedder_of,
    gguf_file,
    gguf_options,
    parts_of,
    settings_of,
)
from finery_serve.llama import LlamaServer
from finery_serve.options import SLOTS, Options, read_arguments
from finery_serve.servers import Serving

TOPIC = 5
"""Words of a chunk without a heading that an example asks about."""
CHECKED_EVERY = 0.5
"""Seconds between two looks at whether the model's server still runs."""


class Answering(NamedTuple):
    """A running app.

    page: the address of its page, with the key if it needs one. names: of its model in the API.
    example: a question about its documents. prompted: makes the messages that it sends. llama:
    llama.cpp's server that it sends them to; None for a model behind an API. checked_by: the step
    type that checks it.
    """

    address: str
    pid: int
    build: str
    page: str
    names: tuple[str, ...]
    example: str
    prompted: Prompt
    llama: LlamaServer | None
    checked_by: str = "retrieve.check"


@contextmanager
def serve_bundle(bundle: Artifact, serving: Serving) -> Iterator[Answering]:
    """Serve a bundle as its `run.sh` does, with finery's llama.cpp.

    Raises `StepError` if the model's server can't start, and `UsageError` for a port in use, an API
    key and a package that is missing.
    """
    with _explained():
        app = opened(bundle.path)
        require(app.settings["index"].get("embedder", {}).get("api_key"))
    model = app.settings["model"]
    if "arguments" in model:
        with _explained():
            refuse_base_url()
        options = read_arguments(model["arguments"], bundle.file(SETTINGS))
        with _with_llama(app, bundle.file(options.model), options, serving) as answering:
            yield answering
    else:
        with _behind_api(app, serving) as answering:
            yield answering


@contextmanager
def serve_model(model: Artifact, serving: Serving) -> Iterator[Answering]:
    """Serve a model of `retrieve.model`.

    Raises as `serve_bundle`, and `StepError` if only finery can run the model in it.
    """
    assert isinstance(model, Model)
    index, under = parts_of(model)
    gguf = under.format == "gguf"
    options = gguf_options(under, serving.name, None, SLOTS) if gguf else None
    settings = settings_of(model, serving.name, options, MAX_TOKENS)
    embedder = embedder_of(index)
    folder = index.path if embedder is None else embedder.path
    with _explained():
        app = opened_from(index.path, folder, settings, model.meta["prompt"]["template"])
        require(settings["index"].get("embedder", {}).get("api_key"))
    if options is None:
        with _behind_api(app, serving) as answering:
            yield answering
    else:
        with _with_llama(app, gguf_file(under), options, serving) as answering:
            yield answering


@contextmanager
def _explained() -> Iterator[None]:
    """Raise finery's errors for those of the app."""
    try:
        yield
    except Unusable as error:
        raise UsageError(str(error), fix=error.fix) from error
    except ImportError as error:
        raise missing(str(error.name)) from error


@contextmanager
def _with_llama(app: Opened, file: Path, options: Options, serving: Serving) -> Iterator[Answering]:
    """The app, and llama.cpp's server that only the app can use."""
    key, model = secrets.token_urlsafe(32), app.settings["model"]
    with start(
        file,
        slots=serving.slots or options.slots,
        context=serving.context or options.context,
        api_key=key,
        log=serving.log,
        alias=str(model["name"]),
        threads=cpu_count(),
        template=options.template,
        sampling={"temperature": 0.0, "repeat_penalty": 1.0},
    ) as llama:
        upstream = Upstream(f"{llama.address}/v1", model["name"], key, model["parameters"])
        server = LlamaServer(llama, key, {}, options.unread)
        with _served(app, upstream, serving, llama.build, server) as answering:
            yield answering


@contextmanager
def _behind_api(app: Opened, serving: Serving) -> Iterator[Answering]:
    with _explained():
        upstream = behind_api(app.settings["model"])
    build = f"{upstream.model} at {upstream.base_url}"
    with _served(app, upstream, serving, build, None) as answering:
        yield answering


@contextmanager
def _served(
    app: Opened, upstream: Upstream, serving: Serving, build: str, llama: LlamaServer | None
) -> Iterator[Answering]:
    """The app, in a thread. It ends if llama.cpp's server does."""
    try:
        server = Server(serving.host, serving.port or 0)
    except OSError as error:
        if is_not_here(error):
            raise UsageError(
                f"{serving.host} is not an address of this machine ({error.strerror})",
                where="--host",
                fix=f"name one, e.g. {LOOPBACK[0]}",
            ) from error
        raise UsageError(
            f"port {serving.port} of {serving.host} can't be used: {error.strerror}",
            where="--port",
            fix="end the program that uses it, or choose another port: --port 0 takes any free one",
        ) from error
    name = str(app.settings["name"])
    server.app = App(name, name, app.prompted, upstream, serving.key)
    ended = threading.Event()
    for target, arguments in (
        (server.serve_forever, ()), (_close_without, (server, llama, ended))
    ):  # fmt: skip
        threading.Thread(target=target, args=arguments, daemon=True).start()
    pid = llama.pid if llama else os.getpid()
    try:
        build = f"{build}, with sources"
        yield Answering(
            server.address, pid, build, server.page, (name,), example_of(app), app.prompted, llama
        )
    finally:
        ended.set()
        server.shutdown()
        server.server_close()


def example_of(app: Opened) -> str:
    """A question about the first chunk, so that it is found."""
    chunk = app.searcher.chunk(0)
    topic = chunk["heading"] or " ".join(chunk["text"].split()[:TOPIC])
    return f"What do the documents say about {topic}?"


def _close_without(server: Server, llama: LlamaServer | None, ended: threading.Event) -> None:
    """Stop listening once llama.cpp's server no longer does, until `ended`."""
    if llama is None:
        return
    place = urlsplit(llama.address)
    while not ended.wait(CHECKED_EVERY):
        try:
            socket.create_connection((place.hostname, place.port), timeout=10).close()
        except TimeoutError:  # busy
            continue
        except OSError:
            server.shutdown()
            server.server_close()
            return
