"""Engines: what answers prompts with a model, whatever the model's format."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import msgspec

from finery.artifacts import Model
from finery.rows import Conversation

if TYPE_CHECKING:
    from finery.job import Job


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to answer: at most `max_tokens` new tokens, greedy at temperature 0."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """An answer. `finish_reason` is `stop` (end of turn) or `length` (cut at max_tokens)."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Engine:
    """Answers conversations with one model. Plugins subclass it, one class a model format.

    It is made in the worker, once for each `job.engine(model)`, and loads the model lazily, at
    the first `generate`. `packages` are distributions whose version can change an answer: they
    are part of the key of every step that uses the engine.
    """

    packages: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Model, job: "Job") -> None:
        self.model = model
        self.job = job

    def batches(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Rows that are answered together, as indices into `conversations`.

        A batch is the unit of the record cache, since what is beside a row in a batch can change
        the last digits of its logits, and so its answer. Default: each row alone.
        """
        return [[i] for i in range(len(conversations))]

    def generate(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> list[Completion]:
        """Answer one batch, in its order."""
        raise NotImplementedError
