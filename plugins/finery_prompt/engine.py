"""The engine for models of the format `prompted`: another model's engine, behind fixed messages."""

from collections.abc import Sequence

from finery import Completion, Engine, Job, Model, Sampling
from finery.rows import Conversation
from finery_prompt.messages import in_front


class PromptedEngine(Engine):
    """Puts `meta["messages"]` in front of each conversation and asks the engine of the model."""

    def __init__(self, model: Model, job: Job) -> None:
        super().__init__(model, job)
        under = model.refs["model"]
        assert isinstance(under, Model)
        self._under = job.raw_engine(under)

    def batches(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """As the engine of the model batches the whole conversations."""
        return self._under.batches(self._whole(conversations))

    def generate(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> list[Completion]:
        """Answer one batch; the fixed messages count as prompt tokens."""
        return self._under.generate(self._whole(conversations), sampling)

    def _whole(self, conversations: Sequence[Conversation]) -> list[Conversation]:
        fixed = self.model.meta["messages"]
        return [in_front(fixed, conversation) for conversation in conversations]
