"""Requests to models and their answers, as plain data."""

from typing import Any, NamedTuple

import msgspec

from finery.errors import FineryError, StepError
from finery.rows import Conversation

CHARACTERS_PER_TOKEN = 4
"""A rough average, for estimates before a model has counted."""

Tools = list[dict[str, Any]]
"""Tools that a model may call, in the shape of the OpenAI Chat Completions API."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to answer: at most `max_tokens` new tokens, greedily at temperature 0.

    schema: a JSON Schema that the answer's text must follow. Engines that can't constrain answers
        ignore it, see `Engine.constrains`.
    strict: whether an answer that may not follow the schema is an error.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    strict: bool = False

    def of_attempt(self, attempt: int) -> "Sampling":
        """The sampling of an attempt: each has a different seed."""
        return msgspec.structs.replace(self, seed=self.seed + attempt) if attempt else self


class Request(msgspec.Struct, frozen=True):
    """A conversation, the tools that the model may call, and the number of the attempt.

    attempt: above 0, a repetition of an earlier request. Its answer is another record, and its seed
    is the sampling's plus this number. A local model's answer can differ only at a temperature
    above 0.
    """

    messages: Conversation
    tools: Tools | None = None
    attempt: int = 0

    def estimated_tokens(self) -> int:
        """Estimated tokens of the prompt, including the tools it offers."""
        content = [self.messages, self.tools] if self.tools else self.messages
        return 1 + len(msgspec.json.encode(content)) // CHARACTERS_PER_TOKEN

    def beginning(self) -> bytes:
        """All but the last turn, and the tools: what prompts with an equal one have in common."""
        return msgspec.json.encode([*self.messages[:-1], self.tools])


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer.

    finish_reason: `stop` (end of turn), `length` (cut at max_tokens), `tool_calls`, or `refusal`
    (only if the caller accepts refusals as answers).
    tool_calls: in the shape of the OpenAI Chat Completions API, `arguments` as JSON text.
    reasoning: the thinking before the answer, which is no part of `text`. An answer that was cut
        while the model was thinking has no text.
    call_error: why the answer's apparent tool call can't be parsed. It is then part of `text`.
    probability: that the whole answer is right, as the model itself says, from 0 to 1. Only
        classifiers give it.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tool_calls: list[dict[str, Any]] | None = None
    reasoning: str | None = None
    call_error: str | None = None
    probability: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has neither text nor tool calls."""
        return not self.text.strip() and not self.tool_calls


Batch = list[Request]
Answer = list[Completion] | FineryError
"""The outcome of a batch: its rows' answers in order, or an error."""


class Identity(NamedTuple):
    """What answers, in keys of records: an engine's code and packages, or a model with its engines.

    held: the same for answers that are held to a JSON Schema, with the packages that do that. None:
    these packages aren't in the key of the step, because it declares that it sends no schema.
    """

    free: str
    held: str | None

    def of(self, sampling: Sampling) -> str:
        """The one that counts. `StepError` for a schema that isn't declared."""
        if sampling.schema is None:
            return self.free
        if self.held is None:
            raise StepError(
                "the step holds answers to a JSON Schema, but its `cache_key` has no `schemas`",
                fix="return True there: the packages that do it must be in the key",
            )
        return self.held
