"""Answers prompts with a GGUF, through llama.cpp."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from blake3 import blake3

from finery import (
    Completion,
    DataError,
    Engine,
    EngineJob,
    Model,
    Request,
    Sampling,
    cpu_count,
    load_reference,
)
from finery.rows import Conversation
from finery_gguf.llama import PACKAGE, Context, Gguf, Sampler

if TYPE_CHECKING:
    from finery_gguf.chat import ChatTemplate
    from finery_gguf.pace import Pace

SMALLEST_CONTEXT = 512
PACE = "finery_gguf.pace:Pace"
"""By name, since the number of threads can't change an answer and must not enter the key."""


class GgufEngine(Engine):
    """llama.cpp on all cores, row by row, so that an answer depends only on its own row.

    Everything before the last turn's content (system, shots) is evaluated separately and reused for
    the next row that begins with the same tokens. Logits are bit-identical with and without reuse,
    and for any number of cores.
    """

    packages = (PACKAGE,)

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self._gguf: Gguf | None = None
        self._template: ChatTemplate | None = None
        self._contexts: dict[int, Context] = {}
        self._pace: Pace = load_reference(PACE)(cpu_count())

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer each request, in order."""
        gguf, template = self._load()
        return [self._answer(gguf, template, request, sampling) for request in requests]

    def _load(self) -> "tuple[Gguf, ChatTemplate]":
        if self._gguf is None or self._template is None:
            from finery_gguf.prompts import chat_template

            path = self.model.file(self.model.meta["file"])
            self._gguf = Gguf(path)
            arguments = self.model.meta.get("chat_template_kwargs", {})
            self._template = chat_template(self._gguf, arguments)
        return self._gguf, self._template

    def _answer(
        self, gguf: Gguf, template: "ChatTemplate", request: Request, sampling: Sampling
    ) -> Completion:
        from finery_gguf.prompts import tokenize

        prompt, prefix = tokenize(gguf, template, request.messages)
        context = self._context(gguf, len(prompt) + sampling.max_tokens, request.messages)
        context.read(prompt, prefix)
        sampler = _sampler(sampling, prompt)
        return _generate(gguf, context, sampling, sampler, len(prompt))

    def _context(self, gguf: Gguf, needed: int, messages: Conversation) -> Context:
        """A context with room for `needed` tokens.

        Its size depends only on the row, since some models scale their positions by it.
        """
        if needed > gguf.n_context:
            from finery_gguf.prompts import whose

            raise DataError(
                f"prompt and answer need {needed} tokens, but the context has {gguf.n_context}",
                fix="shorten the row, or lower max_tokens",
                details=[whose(messages)],
            )
        size = SMALLEST_CONTEXT
        while size < needed:
            size *= 2
        size = min(size, gguf.n_context)
        if size not in self._contexts:
            self._contexts[size] = Context(gguf, size, self._pace)
        return self._contexts[size]


def _sampler(sampling: Sampling, prompt: list[int]) -> Sampler | None:
    """None for greedy answers, otherwise a sampler with a seed for this row.

    Rows with the same `sampling.seed` draw different numbers.
    """
    if sampling.temperature == 0:
        return None
    digest = blake3(msgspec.json.encode([sampling.seed, prompt])).digest(4)
    return Sampler(sampling.temperature, sampling.top_p, int.from_bytes(digest, "little"))


def _generate(
    gguf: Gguf, context: Context, sampling: Sampling, sampler: Sampler | None, prompt_tokens: int
) -> Completion:
    """The answer to the prompt in the context. Its end-of-turn token counts too."""

    def completion(text: str, finish: str, tokens: int) -> Completion:
        return Completion(
            text=text,
            finish_reason=finish,
            prompt_tokens=prompt_tokens,
            completion_tokens=tokens,
        )

    answer: list[int] = []
    while len(answer) < sampling.max_tokens:
        if answer:
            context.evaluate(answer[-1:])
        token = context.sample(sampler)
        if gguf.ends_generation(token):
            return completion(gguf.decode(answer), "stop", len(answer) + 1)
        answer.append(token)
        cut = _cut(gguf.decode(answer), sampling.stop) if sampling.stop else None
        if cut is not None:
            return completion(cut, "stop", len(answer))
    return completion(gguf.decode(answer), "length", len(answer))


def _cut(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first stop string; None if there is none."""
    positions = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(positions)] if positions else None
