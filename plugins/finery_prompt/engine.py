"""The engine of the format `prompted`: it joins fixed messages and a conversation."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from finery import Completion, Engine, EngineJob, Model, Request, Sampling
from finery.advanced import Answer, Batch
from finery.rows import Conversation, Message, split_turns
from finery.rows.similar import SimilarIndex, question_text

EXAMPLES = "examples.jsonl"
"""The file with the turns of each row that a prompt may be shown, a row a line."""
SYSTEM_ROLES = ("system", "developer")  # OpenAI's newer models call it developer


def in_front(fixed: Sequence[Message], conversation: Sequence[Message]) -> Conversation:
    """`fixed` (at most one system message, then turns), followed by `conversation`.

    Chat templates accept one system message, which must be the first. If both have one, they are
    joined, the fixed text first; two equal texts become one. Changes nothing in place.
    """
    system, turns = _parted(fixed)
    own, rest = _parted(conversation)
    joined: Message | None = None
    for message in (*system, *own):
        joined = dict(message) if joined is None else _joined(joined, message)
    return [*([joined] if joined else []), *turns, *rest]


def without_system(conversation: Sequence[Message]) -> Conversation:
    """The conversation without its system messages."""
    return [message for message in conversation if message["role"] not in SYSTEM_ROLES]


def _parted(conversation: Sequence[Message]) -> tuple[Conversation, Conversation]:
    """(The leading system messages, the rest)."""
    first = 0
    while first < len(conversation) and conversation[first]["role"] in SYSTEM_ROLES:
        first += 1
    return list(conversation[:first]), list(conversation[first:])


def _joined(first: Message, second: Message) -> Message:
    before, after = first.get("content") or "", second.get("content") or ""
    if before == after or not after:
        return first
    if not before:
        return {**first, "content": after}
    if isinstance(before, str) and isinstance(after, str):
        return {**first, "content": f"{before}\n\n{after}"}
    return {**first, "content": [*_parts(before), *_parts(after)]}


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


class FixedMessages:
    """What a model of the format `prompted` puts before each conversation."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def before(self, conversation: Conversation) -> Conversation:
        """The conversation after the fixed messages, and the examples most similar to it if any."""
        fixed = self._model.meta["messages"]
        if "nearest" in self._model.meta:
            shots = self._model.meta["nearest"]["shots"]
            nearest = self._index.nearest(question_text(conversation), shots)
            fixed = [*fixed, *(turn for n, _ in reversed(nearest) for turn in self._rows[n])]
        return in_front(fixed, conversation)

    @cached_property
    def _rows(self) -> list[Conversation]:
        lines = self._model.file(EXAMPLES).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Conversation) for line in lines]

    @cached_property
    def _index(self) -> SimilarIndex:
        return SimilarIndex([question_text(split_turns({"messages": of})[0]) for of in self._rows])


class WrappingEngine(Engine):
    """Completes each conversation, and passes it to the engine of the model in `refs["model"]`."""

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        under = model.refs["model"]
        assert isinstance(under, Model)
        self._under = job.raw_engine(under)
        self.constrains = self._under.constrains
        self.takes_tools = self._under.takes_tools
        self.price = self._under.price

    def complete(self, requests: Sequence[Request]) -> list[Request]:
        """The requests with complete conversations. What is added counts as prompt tokens."""
        raise NotImplementedError

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """The batches of the model's engine for the complete conversations."""
        return self._under.batches(self.complete(requests))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch."""
        return self._under.generate(self.complete(requests), sampling)

    def timed(self, request: Request, sampling: Sampling) -> tuple[Completion, float | None]:
        """The answer, and when its first token came."""
        (whole,) = self.complete([request])
        return self._under.timed(whole, sampling)

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answer batches with the model's engine."""
        for answered in self._under.stream(map(self.complete, batches), sampling):
            self.constrains = self._under.constrains  # a server's answers show it
            yield answered


class PromptedEngine(WrappingEngine):
    """Puts `meta["messages"]` before each conversation."""

    version = "1"

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self._fixed = FixedMessages(model)

    def complete(self, requests: Sequence[Request]) -> list[Request]:
        """The requests after the fixed messages."""
        return [
            msgspec.structs.replace(request, messages=self._fixed.before(request.messages))
            for request in requests
        ]
