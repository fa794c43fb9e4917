"""Requests to models and their answers, as plain data."""

from typing import TYPE_CHECKING, Any

import msgspec

from finery.errors import FineryError
from finery.rows import Conversation

if TYPE_CHECKING:
    pass


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to answer: at most `max_tokens` new tokens, greedy at temperature 0.

    schema: a JSON Schema that the answer's text must follow. Engines that can't constrain their
    answers leave it alone, see `Engine.constrains`.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None

    def of_attempt(self, attempt: int) -> "Sampling":
        """The sampling of a further attempt: another seed."""
        return msgspec.structs.replace(self, seed=self.seed + attempt) if attempt else self


class Request(msgspec.Struct, frozen=True):
    """One thing to ask: a conversation, the tools that the model may call, and which attempt it is.

    attempt: a number above 0 asks anew what was asked before: its answer is another record, and
    the seed sent is the sampling's plus this number. Only at a temperature above 0 may the answer
    of a local model differ.
    """

    messages: Conversation
    tools: list[dict[str, Any]] | None = None
    attempt: int = 0


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer.

    finish_reason: `stop` (end of turn), `length` (cut at max_tokens), `tool_calls`, or `refusal`
    (only where the caller takes refusals as answers). tool_calls: in the shape of the OpenAI Chat
    Completions API.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tool_calls: list[dict[str, Any]] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing and calls nothing."""
        return not self.text.strip() and not self.tool_calls


Batch = list[Request]
Answer = list[Completion] | FineryError
"""What became of a batch: its rows' answers in order, or why there are none."""
