"""Answers prompts with a GGUF, through llama.cpp."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from blake3 import blake3
from jinja2.exceptions import TemplateError

from finery import Completion, DataError, Engine, Job, Model, Sampling, StepError
from finery.job import cpu_count
from finery.rows import Conversation
from finery_gguf.chat import ChatTemplate
from finery_gguf.llama import PACKAGE, Context, Gguf, Sampler
from finery_gguf.pace import Pace

SMALLEST_CONTEXT = 512
_PROBE = "\u2402"  # stands for the last turn's content when the prompt before it is sought


class GgufEngine(Engine):
    """llama.cpp on all cores, row by row: a row's answer depends on that row alone.

    What comes before the last turn's content (system, shots) is evaluated by itself, and kept for
    the next row that begins with the same tokens. Logits are the same bits whether it was kept
    or not, and for any number of cores.
    """

    packages = (PACKAGE,)

    def __init__(self, model: Model, job: Job) -> None:
        super().__init__(model, job)
        self._gguf: Gguf | None = None
        self._template: ChatTemplate | None = None
        self._contexts: dict[int, Context] = {}
        self._pace = Pace(cpu_count())

    def generate(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> list[Completion]:
        """Answer each conversation, in order."""
        gguf, template = self._load()
        return [self._answer(gguf, template, c, sampling) for c in conversations]

    def _load(self) -> tuple[Gguf, ChatTemplate]:
        if self._gguf is None or self._template is None:
            path = self.model.file(self.model.meta["file"])
            self._gguf = Gguf(path)
            arguments = self.model.meta.get("chat_template_kwargs", {})
            self._template = chat_template(self._gguf, arguments)
        return self._gguf, self._template

    def _answer(
        self, gguf: Gguf, template: ChatTemplate, messages: Conversation, sampling: Sampling
    ) -> Completion:
        prompt, prefix = tokenize(gguf, template, messages)
        context = self._context(gguf, len(prompt) + sampling.max_tokens, messages)
        context.read(prompt, prefix)
        sampler = _sampler(sampling, prompt)
        return _generate(gguf, context, sampling, sampler, len(prompt))

    def _context(self, gguf: Gguf, needed: int, messages: Conversation) -> Context:
        """A context with room for `needed` tokens.

        Its size follows from the row alone, as some models scale their positions by it.
        """
        if needed > gguf.n_context:
            raise DataError(
                f"prompt and answer need {needed} tokens, and the model has {gguf.n_context}",
                fix="shorten the row, or lower max_tokens",
                details=[_whose(messages)],
            )
        size = SMALLEST_CONTEXT
        while size < needed:
            size *= 2
        size = min(size, gguf.n_context)
        if size not in self._contexts:
            self._contexts[size] = Context(gguf, size, self._pace)
        return self._contexts[size]


def chat_template(gguf: Gguf, arguments: Mapping[str, Any]) -> ChatTemplate:
    """The GGUF's own chat template. `StepError` if it has none that works."""
    source = gguf.chat_template
    if source is None:
        raise StepError(
            "the GGUF holds no chat template", where=str(gguf.path),
            fix="export it from a model whose tokenizer has one",
        )  # fmt: skip
    try:
        return ChatTemplate(source, gguf.special_tokens(), arguments)
    except TemplateError as error:
        raise StepError(
            f"the GGUF's chat template is no Jinja: {error}", where=str(gguf.path)
        ) from error


def tokenize(gguf: Gguf, template: ChatTemplate, messages: Conversation) -> tuple[list[int], int]:
    """(token ids of the prompt, how many of them come before the last turn's content)."""
    try:
        text = template.render(messages)
    except TemplateError as error:
        raise DataError(
            f"the model's chat template refuses a conversation: {error}", details=[_whose(messages)]
        ) from error
    tokens = gguf.encode_prompt(text)
    head = gguf.encode_prompt(_head(template, messages, text))
    shared = 0
    # The last token of all is left to the row, so that there is always one to take logits from.
    for own, other in zip(tokens[:-1], head, strict=False):
        if own != other:
            break
        shared += 1
    return tokens, shared


def _head(template: ChatTemplate, messages: Conversation, text: str) -> str:
    """The part of the rendered `text` that comes before the last turn's content, if it's fixed."""
    if not messages or not isinstance(messages[-1].get("content"), str):
        return ""
    try:
        probed = template.render([*messages[:-1], {**messages[-1], "content": _PROBE}])
    except TemplateError:
        return ""
    head, found, _ = probed.partition(_PROBE)
    return head if found and text.startswith(head) else ""


def _sampler(sampling: Sampling, prompt: list[int]) -> Sampler | None:
    """None for greedy answers; else one with a seed of the row's own.

    Rows with the same `sampling.seed` don't draw the same numbers.
    """
    if sampling.temperature == 0:
        return None
    digest = blake3(msgspec.json.encode([sampling.seed, prompt])).digest(4)
    return Sampler(sampling.temperature, sampling.top_p, int.from_bytes(digest, "little"))


def _generate(
    gguf: Gguf, context: Context, sampling: Sampling, sampler: Sampler | None, prompt_tokens: int
) -> Completion:
    """The answer to what the context has read. Its end-of-turn token counts as one of its own."""

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
    """The text before the first stop string in it, None if there is none."""
    found = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(found)] if found else None


def _whose(messages: Conversation) -> str:
    content = str(messages[-1].get("content", "")) if messages else ""
    shown = content if len(content) <= 80 else f"{content[:77]}…"
    return f"the row whose last turn is: {shown!r}"
