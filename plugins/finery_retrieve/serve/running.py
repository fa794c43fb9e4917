"""Runs the app: of a bundle, or of a model of `retrieve.model`, with the server of its model."""

import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import msgspec

from finery import Artifact, FineryError, Index, Model, UsageError
from finery.advanced import load_plugins
from finery.rows import Conversation
from finery_retrieve.index.chunks import Chunks, escape_control_tokens
from finery_retrieve.index.context import Lookup
from finery_retrieve.serve.bundle import (
    EMBEDDER,
    MAX_TOKENS,
    Remote,
    bundled_model,
    gguf_file,
    gguf_options,
    parameters,
    part_of,
    parts_of,
    read_settings,
    remote,
)
from finery_retrieve.serve.upstream import Refused, Upstream, address_from_variable
from finery_serve.llama import LlamaServer, Options, start_server
from finery_serve.processes import Address, listens
from finery_serve.servers import Fault, Prompt, Serving, ServingJob

if TYPE_CHECKING:
    import uvicorn

    from finery_retrieve.serve.app import PromptFunction, Source

TOPIC_WORDS = 5
"""Words of a chunk without a heading that an example asks about."""
CHECKED_EVERY = 0.5
"""Seconds between two looks at whether the model's server still runs."""
EMBEDDINGS = "EMBEDDINGS_BASE_URL"
"""The environment variable that names another server of embeddings."""
RETRIES = 2
"""Number of retries if a server of embeddings doesn't answer a question."""
EXTRAS = {"openai": "openai", "torch": "train", "transformers": "train"}
"""Package → the extra that has it, unless it is `retrieve`."""


class RunningApp(NamedTuple):
    """A running app.

    page: the URL of its page, with the key if it needs one. names: of its model in the API.
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
    prompted: "PromptFunction"
    llama: LlamaServer | None
    checked_by: str = "retrieve.check"


class LlamaApp(RunningApp):
    """A running app that sends its messages to llama.cpp's server, which shows its prompts."""

    def chat_template(self) -> str | None:
        """The source of the server's chat template."""
        return self._llama.chat_template()

    def prompt(self, request: Mapping[str, Any]) -> Prompt:
        """The prompt for a request to the app, with documents."""
        messages, _ = self.prompted(request["messages"])
        return self._llama.prompt({"messages": messages})

    def faults(self) -> list[Fault]:
        """The faults of the server."""
        return self._llama.faults()

    def adapter_fault(self, name: str, prompts: Sequence[list[int]]) -> Fault | None:
        """None: a GGUF is one complete model."""
        return None

    @property
    def _llama(self) -> LlamaServer:
        assert self.llama is not None
        return self.llama


def serve_bundle(bundle: Artifact, serving: Serving) -> AbstractContextManager[RunningApp]:
    """Serve a bundle as its `run.sh` does.

    Raises `StepError` if the model's server can't start, and `UsageError` for a port in use, an API
    key and a package that is missing.
    """
    settings = read_settings(bundle.path)
    documents = Documents(bundled_model(bundle.path, settings))
    model = settings.model
    if isinstance(model, Remote):
        return _serve_with_api(documents, model, settings.name, serving)
    if os.environ.get("BASE_URL"):
        raise UsageError(
            "BASE_URL is set, but the GGUF of the bundle answers", fix="unset BASE_URL"
        )
    template = model.chat_template and bundle.file(model.chat_template).read_text(encoding="utf-8")
    options = Options(
        name=settings.name, context=model.context, slots=model.slots, template=template
    )
    file = bundle.file(model.file)
    return _serve_with_llama(documents, file, options, model.parameters, serving)


def serve_model(model: Artifact, serving: Serving) -> AbstractContextManager[RunningApp]:
    """Serve a model of `retrieve.model`.

    Raises as `serve_bundle`, and `StepError` if only finery can run the model in it.
    """
    assert isinstance(model, Model)
    under = parts_of(model).model
    documents = Documents(model)
    if under.format == "api":
        return _serve_with_api(documents, remote(under, MAX_TOKENS), serving.name, serving)
    options = gguf_options(under, serving.name)
    return _serve_with_llama(documents, gguf_file(under), options, parameters(MAX_TOKENS), serving)


class Documents:
    """Retrieves sources for the last question of a conversation, and writes the prompt.

    May be used from several threads. Raises `UsageError` for a missing package or API key.
    """

    def __init__(self, model: Model) -> None:
        index = model.refs["index"]
        assert isinstance(index, Index)
        embedder = part_of(index, EMBEDDER)
        self._index = index
        try:
            if embedder is not None and embedder.format == "embedder-api":
                import openai  # noqa: F401  # now, not at the first question

                embedder.meta["server"] = (
                    address_from_variable(EMBEDDINGS) or embedder.meta["server"]
                )
                embedder.runtime |= {"batch": 1, "retries": RETRIES}
            self._job = ServingJob(load_plugins())
            self._lookup = Lookup.of(model, self._job)
            # Load the files and a local embedding model; without words no server is asked.
            is_local = embedder is not None and embedder.format != "embedder-api"
            self._lookup.search([[{"role": "user", "content": "?" if is_local else ""}]])
        except ImportError as error:
            extra = EXTRAS.get(str(error.name), "retrieve")
            raise UsageError(
                f"answering needs the package {error.name}, which isn't installed",
                fix=f"pip install 'finery[{extra}]'",
            ) from error

    def prompted(self, messages: Conversation) -> "tuple[Conversation, list[Source]]":
        """(The messages for the model, their sources). `Refused` if a question isn't embedded."""
        try:
            (hits,) = self._lookup.search([messages])
        except FineryError as error:
            problem = self._job.redact(error.what)
            raise Refused(502, f"the question can't be embedded: {problem}") from error
        prompted = self._lookup.prompted(messages, hits)
        sources: list[Source] = []
        for hit in prompted.hits:
            facts = {k: v for k, v in msgspec.to_builtins(hit).items() if v is not None}
            text = escape_control_tokens(hit.text)
            sources.append(facts if text == hit.text else {**facts, "prompted": text})
        return prompted.messages, sources

    def example(self) -> str:
        """A question about the first chunk, so that it is found."""
        chunk = Chunks(self._index.path)[0]
        topic = chunk.heading or " ".join(chunk.text.split()[:TOPIC_WORDS])
        return f"What do the documents say about {topic}?"


@contextmanager
def _serve_with_llama(
    documents: Documents,
    file: Path,
    options: Options,
    parameters: dict[str, object],
    serving: Serving,
) -> Iterator[RunningApp]:
    """The app, and llama.cpp's server that only the app can use."""
    key = secrets.token_urlsafe(32)
    private = Serving(
        name=options.name, slots=serving.slots, context=serving.context, key=key, log=serving.log
    )
    with start_server(file, options, private) as llama:
        upstream = Upstream(f"{llama.address}/v1", options.name, key, parameters)
        server = LlamaServer(llama, key, {}, ())
        with _serve_app(
            documents, options.name, upstream, serving, llama.build, server
        ) as answering:
            yield answering


def _serve_with_api(
    documents: Documents, model: Remote, name: str, serving: Serving
) -> AbstractContextManager[RunningApp]:
    """The app, and a model's server elsewhere. `BASE_URL` replaces its address."""
    key = ServingJob(load_plugins()).secret(model.api_key) if model.api_key else None
    address = address_from_variable("BASE_URL") or model.base_url.rstrip("/")
    upstream = Upstream(address, model.name, key, model.parameters, model.extra)
    return _serve_app(documents, name, upstream, serving, f"{model.name} at {address}", None)


@contextmanager
def _serve_app(
    documents: Documents,
    name: str,
    upstream: Upstream,
    serving: Serving,
    build: str,
    llama: LlamaServer | None,
) -> Iterator[RunningApp]:
    """The app, in a thread. It ends if llama.cpp's server does."""
    try:
        from finery_retrieve.serve.app import make_app
        from finery_serve.web import server_of
    except ImportError as error:
        raise UsageError(
            f"the app needs the package {error.name}, which isn't installed",
            fix="pip install 'finery[retrieve]'",
        ) from error
    socket = Address(serving.host, serving.port or 0).listening()
    port = socket.getsockname()[1]
    app = make_app(name, documents.prompted, upstream, serving.host, port, serving.key)
    server = server_of(app)
    running = threading.Thread(target=server.run, args=[[socket]], daemon=True)
    running.start()
    if llama is not None:
        threading.Thread(target=_end_with_server, args=[server, llama], daemon=True).start()
    address = Address(serving.host, port).url
    page = f"{address}/#key={quote(serving.key)}" if serving.key else f"{address}/"
    try:
        yield (RunningApp if llama is None else LlamaApp)(
            address, llama.pid if llama else os.getpid(), f"{build}, with sources", page, (name,),
            documents.example(), documents.prompted, llama,
        )  # fmt: skip
    finally:
        server.should_exit = True
        running.join(5)


def _end_with_server(server: "uvicorn.Server", llama: LlamaServer) -> None:
    """End the app when llama.cpp's server stops listening."""
    while not server.should_exit:
        if not listens(llama.address):
            server.should_exit = True
        time.sleep(CHECKED_EVERY)
