"""The engine for models of the format `prompted`: another model's engine, behind fixed messages."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from finery import Answer, Batch, Completion, Engine, EngineJob, Model, Request, Sampling
from finery.rows import Conversation
from finery_prompt.messages import in_front


class PromptedEngine(Engine):
    """Puts `meta["messages"]` in front of each conversation and asks the engine of the model."""

    version = "1"

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        under = model.refs["model"]
        assert isinstance(under, Model)
        self._under = job.raw_engine(under)
        self.constrains = self._under.constrains
        self.price = self._under.price

    def batches(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """As the engine of the model batches the whole conversations."""
        return self._under.batches(self._whole(conversations))

    def generate(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> list[Completion]:
        """Answer one batch; the fixed messages count as prompt tokens."""
        return self._under.generate(self._whole(conversations), sampling)

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answer batches as the engine of the model does."""
        whole = ([self._with_fixed(request) for request in batch] for batch in batches)
        for answered in self._under.stream(whole, sampling):
            self.constrains = self._under.constrains  # a server may turn out not to
            yield answered

    def _with_fixed(self, request: Request) -> Request:
        messages = in_front(self.model.meta["messages"], request.messages)
        return msgspec.structs.replace(request, messages=messages)

    def _whole(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        fixed = self.model.meta["messages"]
        return [in_front(fixed, conversation) for conversation in conversations]
