"""The engine for models of the format `prompted`."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import msgspec

from finery import Answer, Batch, Completion, Engine, EngineJob, Model, Request, Sampling
from finery.rows import Conversation, split_turns
from finery.rows.similar import SimilarIndex, question
from finery_prompt.messages import EXAMPLES, in_front


class PromptedEngine(Engine):
    """Puts `meta["messages"]` before each conversation and passes it to the model's engine."""

    version = "1"

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        under = model.refs["model"]
        assert isinstance(under, Model)
        self._under = job.raw_engine(under)
        self.constrains = self._under.constrains
        self.takes_tools = self._under.takes_tools
        self.price = self._under.price

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """The batches of the model's engine for the complete conversations."""
        return self._under.batches([self._with_fixed(request) for request in requests])

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch. The fixed messages count as prompt tokens."""
        return self._under.generate([self._with_fixed(request) for request in requests], sampling)

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answer batches with the model's engine."""
        whole = ([self._with_fixed(request) for request in batch] for batch in batches)
        for answered in self._under.stream(whole, sampling):
            self.constrains = self._under.constrains  # a server's answers show it
            yield answered

    def _with_fixed(self, request: Request) -> Request:
        fixed = self.model.meta["messages"]
        if "nearest" in self.model.meta:
            fixed = [*fixed, *self._nearest(request.messages)]
        return msgspec.structs.replace(request, messages=in_front(fixed, request.messages))

    def _nearest(self, conversation: Conversation) -> Conversation:
        """The turns of the rows that are most similar to a conversation, the nearest last."""
        shots = self.model.meta["nearest"]["shots"]
        found = [number for number, _ in self._index.nearest(question(conversation), shots)]
        return [turn for number in reversed(found) for turn in self._rows[number]]

    @cached_property
    def _rows(self) -> list[Conversation]:
        lines = self.model.file(EXAMPLES).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Conversation) for line in lines]

    @cached_property
    def _index(self) -> SimilarIndex:
        return SimilarIndex([question(split_turns({"messages": of})[0]) for of in self._rows])
