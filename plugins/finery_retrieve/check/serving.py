"""Asks the running app of a bundle, through its HTTP API.

In go a bundle with a GGUF and questions. Out comes what the app makes of each question.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from finery import Bundle, Completion, FineryError, Job, StepError
from finery.rows import Conversation
from finery_retrieve.evaluate.grounded.contexts import Asked
from finery_retrieve.serve.running import Answering, serve_bundle
from finery_serve.check.answers import completion_of
from finery_serve.client import Client
from finery_serve.llama import LlamaServer
from finery_serve.servers import Fault, Prompt, Serving


class Served(NamedTuple):
    """What the app makes of a question.

    sources: ids of the chunks, in the order of their labels. messages, prompt: what it sends to the
    model, and the tokens that llama.cpp's server makes of that.
    """

    sources: list[str]
    messages: Conversation
    prompt: Prompt
    answer: Completion


class App(NamedTuple):
    """What a running app answered. build: the server's. faults: of how the server was started."""

    served: list[Served]
    build: str
    faults: list[Fault]


def ask_app(
    bundle: Bundle, asked: Sequence[Asked], settings: Mapping[str, Any], slots: int, job: Job
) -> App:
    """Start the app of a bundle with its llama.cpp server, and ask it every question.

    settings: of each request, e.g. `max_tokens`. slots: requests at once. Raises as `serve_bundle`,
    and `StepError` for a question that has no answer.
    """
    key = secrets.token_urlsafe(24)
    job.progress(0, len(asked), "starting the app")
    with serve_bundle(bundle, Serving(name="app", key=key, checked=True)) as running:
        if (llama := running.llama) is None:
            raise StepError(
                "the bundle has no GGUF, but the model has one",
                fix="build the bundle again, of the model in `models`",
            )
        job.log(f"{running.build}, answers as {running.names[0]}")
        client = Client(running.address, key)

        def ask(one: Asked) -> Served:
            return _served(client, running, llama, one, settings)

        return App(_in_parallel(ask, asked, slots, job), running.build, llama.faults())


def _in_parallel(
    ask: Callable[[Asked], Served], asked: Sequence[Asked], slots: int, job: Job
) -> list[Served]:
    served = []
    with ThreadPoolExecutor(slots) as pool:
        for number, one in enumerate(pool.map(ask, asked), start=1):
            served.append(one)
            job.progress(number, len(asked), "the app's answers")
    return served


def _served(
    client: Client,
    running: Answering,
    llama: LlamaServer,
    asked: Asked,
    settings: Mapping[str, Any],
) -> Served:
    conversation = asked.question.prompt
    body = {"model": running.names[0], "messages": conversation, **settings}
    try:
        answer = client.post("/v1/chat/completions", body)
        messages, _ = running.prompted(conversation)
        prompt = llama.prompt({"messages": messages})
    except FineryError as error:
        what = f"row {asked.question.row['id']} has no answer: {error.what}"
        raise StepError(what, fix=error.fix) from error
    sources = [str(source["id"]) for source in answer["sources"]]
    return Served(sources, messages, prompt, completion_of(answer))
