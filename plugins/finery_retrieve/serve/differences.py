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
from finery_retrieve.evaluate.contexts import QuestionInContext
from finery_retrieve.serve.running import serve_bundle
from finery_retrieve.serve.settings import gguf_file
from finery_serve.check.answers import answers_of, completion_of
from finery_serve.client import Client
from finery_serve.servers import Fault, Prompt, Serving


class ServedAnswer(NamedTuple):
    """The app's intermediate results for a question.

    sources: ids of the chunks, in the order of their labels. messages, prompt: what it sends to the
    model, and the tokens that llama.cpp's server makes of them.
    """

    sources: list[str]
    messages: Conversation
    prompt: Prompt
    answer: Completion


class AppAnswers(NamedTuple):
    """The answers of a running app. build: of the server. faults: of the way it was started."""

    served: list[ServedAnswer]
    build: str
    faults: list[Fault]


def ask_app(
    bundle: Bundle,
    prompts: Sequence[QuestionInContext],
    settings: Mapping[str, Any],
    slots: int,
    job: Job,
) -> AppAnswers:
    """Start the app of a bundle with its llama.cpp server, and ask it every question.

    settings: of each request, e.g. `max_tokens`. slots: requests at once. Raises as `serve_bundle`,
    and `StepError` for a question that has no answer.
    """
    key = secrets.token_urlsafe(24)
    job.progress(0, len(prompts), "starting the app")
    with serve_bundle(bundle, Serving(name="app", key=key, checked=True)) as running:
        if (llama := running.llama) is None:
            raise StepError(
                "the bundle has no GGUF, but the model has one",
                fix="build the bundle again, of the model in `models`",
            )
        job.log(f"{running.build}, answers as {running.names[0]}")
        questions = [prompt.question for prompt in prompts]
        settings = {"model": running.names[0], **settings}
        answers = answers_of(
            Client(running.address, key),
            [(f"row {q.row['id']}", {"messages": q.prompt, **settings}) for q in questions],
            slots,
            lambda done: job.progress(done, len(prompts), "the app's answers"),
        )
        served_answers = []
        for question, answer in zip(questions, answers, strict=True):
            messages, _ = running.prompted(question.prompt)
            prompt = llama.prompt({"messages": messages})
            sources = [str(source["id"]) for source in answer["sources"]]
            served_answers.append(ServedAnswer(sources, messages, prompt, completion_of(answer)))
        return AppAnswers(served_answers, running.build, llama.faults())


Kind = Literal["sources", "prompts", "sampling"]
REBUILD_FIX = "build the bundle again, of the model in `models`"


class AppComparison(NamedTuple):
    """Whether the app's results are the same for each question."""

    sources: list[bool]
    prompts: list[bool]
    faults: list[Fault]


def compare_app(
    questions: Sequence[QuestionInContext], served: Sequence[ServedAnswer], gguf_model: Model
) -> AppComparison:
    """Compare sources and prompts. gguf_model: the GGUF that answers.

    A prompt is the same if its tokens are, and if the server counted as many when it answered.
    """
    gguf = Gguf(gguf_file(gguf_model), vocab_only=True)
    template = model_template(gguf, gguf_model)
    expected = [Prompt(*tokenize(gguf, template, prompt.messages)[:2]) for prompt in questions]
    sources = [
        [hit.id for hit in prompt.hits] == answer.sources
        for prompt, answer in zip(questions, served, strict=True)
    ]
    prompts = [*map(_is_same, expected, questions, served)]
    faults = []
    if not all(sources):
        index = sources.index(False)
        details = [
            f"for example {questions[index].question.text!r}:",
            f"built: {', '.join(hit.id for hit in questions[index].hits) or 'none'}",
            f"app:   {', '.join(served[index].sources) or 'none'}",
        ]
        counts = (
            f"{sources.count(False)} of {len(sources)} questions have other sources than in the "
        )
        faults.append(Fault("sources", f"{counts}build", details, REBUILD_FIX))
    if not all(prompts):
        index = prompts.index(False)
        expected_prompt, served_prompt = expected[index], served[index].prompt
        details = text_difference(("built:", "app:"), expected_prompt.text, served_prompt.text)
        if expected_prompt.text == served_prompt.text:
            sent_tokens = served[index].answer.prompt_tokens
            details = [
                f"built: {len(expected_prompt.tokens)} tokens, app: {len(served_prompt.tokens)}, "
                f"sent: {sent_tokens}"
            ]
        counts = f"{prompts.count(False)} of {len(prompts)} prompts differ from those of the build"
        example = f"for example {questions[index].question.text!r}:"
        faults.append(Fault("prompts", counts, [example, *details], REBUILD_FIX))
    return AppComparison(sources, prompts, faults)


def _is_same(expected: Prompt, question: QuestionInContext, served: ServedAnswer) -> bool:
    token_count = served.answer.prompt_tokens or len(expected.tokens)  # not all servers count
    return (
        served.messages == question.messages
        and served.prompt.tokens == expected.tokens
        and token_count == len(expected.tokens)
    )
