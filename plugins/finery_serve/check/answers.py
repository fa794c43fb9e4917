"""Answers to rows through a server's HTTP API, as a client gets them."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from finery import Completion, FineryError, StepError
from finery_serve.check.prompts import Asked, request
from finery_serve.client import Client

HALF = "\ufffd"
"""The replacement for bytes that aren't a character."""


def answers_of(
    client: Client, asked: Sequence[Asked], settings: dict[str, Any], slots: int,
    progress: Callable[[int], None],
) -> list[Completion]:  # fmt: skip
    """The server's answers, `slots` at once. settings: further parts of each request, e.g. `model`.

    Raises `StepError` naming the row that has no answer.
    """

    def answer(one: Asked) -> Completion:
        body = request(one.messages, one.tools) | settings
        try:
            return completion_of(client.post("/v1/chat/completions", body))
        except FineryError as error:
            raise StepError(f"{one.name} has no answer: {error.what}", fix=error.fix) from error

    completions = []
    with ThreadPoolExecutor(slots) as pool:
        for number, completion in enumerate(pool.map(answer, asked)):
            completions.append(completion)
            progress(number)
    return completions


def completion_of(answer: dict[str, Any]) -> Completion:
    """An answer of the OpenAI Chat Completions API."""
    (choice, *_) = answer["choices"]
    message, usage = choice["message"], answer.get("usage", {})
    calls = message.get("tool_calls")
    return Completion(
        text=message.get("content") or "",
        finish_reason=str(choice.get("finish_reason") or "stop"),
        prompt_tokens=int(usage.get("prompt_tokens", 0)),
        completion_tokens=int(usage.get("completion_tokens", 0)),
        tool_calls=calls or None,
        reasoning=message.get("reasoning_content") or message.get("reasoning") or None,
    )


def what_is_said(completion: Completion) -> str:
    """An answer's text and calls, by which two answers are compared.

    Ignores an incomplete character at the end of a truncated answer, which servers hold back.
    """
    calls = [call.get("function") for call in completion.tool_calls or ()]
    return f"{completion.text.rstrip(HALF).strip()}{calls or ''}"
