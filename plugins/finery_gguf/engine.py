"""Answers prompts with a GGUF, through llama.cpp."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

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
from finery_gguf.llama import PACKAGE, Context, Gguf, Sampler, library

if TYPE_CHECKING:
    from finery_gguf.chat import ChatTemplate
    from finery_gguf.pace import Pace
    from finery_transformers.parsing.reader import AnswerReader

SMALLEST_CONTEXT = 512
PACE = "finery_gguf.pace:Pace"
CAN_USE_GPU = "finery_gguf.offload:can_use_gpu"
LOG_DEVICE = "finery_gguf.offload:log_device"
"""By name, since the number of threads can't change an answer and must not enter the key."""


class GgufEngine(Engine):
    """llama.cpp on all cores, or on a GPU if its build can use one.

    It answers row by row, so that an answer depends only on its own row.

    Everything before the last turn's content (system, shots) is evaluated separately and reused for
    the next row that begins with the same tokens. On a CPU, logits are bit-identical with and
    without reuse, and for any number of cores.
    """

    takes_tools = True
    local = True
    packages = (PACKAGE,)

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self._contexts: dict[int, Context] = {}
        self._pace: Pace = load_reference(PACE)(cpu_count())

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """One request each. Those with the same tools and earlier turns follow one another.

        What they begin with is then read once.
        """
        alike: dict[bytes, list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(request.beginning(), []).append(i)
        return [[i] for places in alike.values() for i in places]

    @classmethod
    def uses_gpu(cls) -> bool:
        """Whether llama.cpp is built for GPUs."""
        return bool(load_reference(CAN_USE_GPU)())

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer each request, in order."""
        loaded = self._loaded
        for request in requests:
            loaded.reader.check(request.tools)
        return [self._answer(loaded, request, sampling) for request in requests]

    @cached_property
    def _loaded(self) -> "_Loaded":
        from finery_gguf.prompts import answer_reader, model_template

        gpus = library().gpus()
        load_reference(LOG_DEVICE)(self.job.log, gpus)
        gguf = Gguf(self.model.file(self.model.meta["file"]), on_gpu=bool(gpus))
        template = model_template(gguf, self.model)
        return _Loaded(gguf, template, answer_reader(template))

    def _answer(self, loaded: "_Loaded", request: Request, sampling: Sampling) -> Completion:
        from finery_gguf.prompts import tokenize

        gguf, reader = loaded.gguf, loaded.reader
        prompt = tokenize(gguf, loaded.template, request.messages, request.tools)
        needed = len(prompt.tokens) + sampling.max_tokens
        context = self._context(gguf, needed, request.messages)
        context.read(prompt.tokens, prompt.prefix)
        sampler = _sampler(sampling, prompt.tokens)
        raw = _generate(gguf, context, sampling, sampler, special=reader.needs_special_tokens)
        parsed = reader.read(
            raw.text, prompt=prompt.text, tools=request.tools,
            special=[gguf.token_text(token) for token in set(raw.tokens) if gguf.is_control(token)],
        )  # fmt: skip
        return Completion(
            **parsed._asdict(),
            finish_reason=parsed.finish_reason(raw.is_finished),
            prompt_tokens=len(prompt.tokens),
            completion_tokens=raw.evaluated,
        )

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


class _Loaded(NamedTuple):
    gguf: Gguf
    template: "ChatTemplate"
    reader: "AnswerReader"


class _Raw(NamedTuple):
    """An answer as the model generated it.

    tokens: without the one that ends the turn. evaluated: the number of tokens with it.
    is_finished: whether it ended before the limit of tokens.
    """

    text: str
    tokens: list[int]
    evaluated: int
    is_finished: bool


def _generate(
    gguf: Gguf, context: Context, sampling: Sampling, sampler: Sampler | None, *, special: bool
) -> _Raw:
    """The answer to the prompt in the context. special: with the text of control tokens."""
    answer: list[int] = []
    while len(answer) < sampling.max_tokens:
        if answer:
            context.evaluate(answer[-1:])
        token = context.sample(sampler)
        if gguf.ends_generation(token):
            return _Raw(gguf.decode(answer, special=special), answer, len(answer) + 1, True)
        answer.append(token)
        if sampling.stop:
            cut = _cut(gguf.decode(answer, special=special), sampling.stop)
            if cut is not None:
                return _Raw(cut, answer, len(answer), True)
    return _Raw(gguf.decode(answer, special=special), answer, len(answer), False)


def _cut(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first stop string; None if there is none."""
    positions = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(positions)] if positions else None
