"""Asks the running app of a bundle, and compares it with the build.

Input: a bundle with a GGUF, questions, and what the build retrieved and prompted. Output: the app's
answers, and faults, each with a name and an example.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from finery import Bundle, Completion, Job, Model, StepError
from finery.rows import Conversation
from finery.rows.difference import text_difference
from finery_gguf.llama import Gguf
from finery_gguf.prompts import model_template, tokenize
from finery_retrieve.evaluate.contexts import Asked
from finery_retrieve.serve.running import serve_bundle
from finery_retrieve.serve.settings import gguf_file
from finery_serve.check.answers import answers_of, completion_of
from finery_serve.client import Client
from finery_serve.servers import Fault, Prompt, Serving


class Served(NamedTuple):
    """The app's intermediate results for a question.

    sources: ids of the chunks, in the order of their labels. messages, prompt: what it sends to the
    model, and the tokens that llama.cpp's server makes of them.
    """

    sources: list[str]
    messages: Conversation
    prompt: Prompt
    answer: Completion


class App(NamedTuple):
    """The answers of a running app. build: of the server. faults: of the way it was started."""

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
        questions = [prompt.question for prompt in asked]
        settings = {"model": running.names[0], **settings}
        answers = answers_of(
            Client(running.address, key),
            [(f"row {q.row['id']}", {"messages": q.prompt, **settings}) for q in questions],
            slots,
            lambda done: job.progress(done, len(asked), "the app's answers"),
        )
        served = []
        for question, answer in zip(questions, answers, strict=True):
            messages, _ = running.prompted(question.prompt)
            prompt = llama.prompt({"messages": messages})
            sources = [str(source["id"]) for source in answer["sources"]]
            served.append(Served(sources, messages, prompt, completion_of(answer)))
        return App(served, running.build, llama.faults())


Kind = Literal["sources", "prompts", "sampling"]
AGAIN = "build the bundle again, of the model in `models`"


class Compared(NamedTuple):
    """Whether the app's results are the same for each question."""

    sources: list[bool]
    prompts: list[bool]
    faults: list[Fault]


def compared(asked: Sequence[Asked], served: Sequence[Served], under: Model) -> Compared:
    """Compare sources and prompts. under: the GGUF that answers.

    A prompt is the same if its tokens are, and if the server counted as many when it answered.
    """
    gguf = Gguf(gguf_file(under), vocab_only=True)
    template = model_template(gguf, under)
    expected = [Prompt(*tokenize(gguf, template, prompt.messages)[:2]) for prompt in asked]
    sources = [
        [hit.id for hit in prompt.hits] == answer.sources
        for prompt, answer in zip(asked, served, strict=True)
    ]
    prompts = [*map(_is_same, expected, asked, served)]
    faults = []
    if not all(sources):
        first = sources.index(False)
        details = [
            f"for example {asked[first].question.text!r}:",
            f"built: {', '.join(hit.id for hit in asked[first].hits) or 'none'}",
            f"app:   {', '.join(served[first].sources) or 'none'}",
        ]
        what = f"{sources.count(False)} of {len(sources)} questions have other sources than in the "
        faults.append(Fault("sources", f"{what}build", details, AGAIN))
    if not all(prompts):
        first = prompts.index(False)
        own, other = expected[first], served[first].prompt
        details = text_difference(("built:", "app:"), own.text, other.text)
        if own.text == other.text:
            sent = served[first].answer.prompt_tokens
            details = [f"built: {len(own.tokens)} tokens, app: {len(other.tokens)}, sent: {sent}"]
        what = f"{prompts.count(False)} of {len(prompts)} prompts differ from those of the build"
        head = f"for example {asked[first].question.text!r}:"
        faults.append(Fault("prompts", what, [head, *details], AGAIN))
    return Compared(sources, prompts, faults)


def _is_same(expected: Prompt, asked: Asked, served: Served) -> bool:
    counted = served.answer.prompt_tokens or len(expected.tokens)  # not all servers count
    return (
        served.messages == asked.messages
        and served.prompt.tokens == expected.tokens
        and counted == len(expected.tokens)
    )
