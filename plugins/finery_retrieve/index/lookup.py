"""The prompts of conversations: their questions are looked up, and what is found is put in."""

from collections.abc import Sequence
from typing import NamedTuple

from finery import EngineJob, Index, Model
from finery.rows import Conversation
from finery_retrieve.index.context import ContextPrompt, question_of
from finery_retrieve.index.hit import Hit
from finery_retrieve.index.retriever import Retriever


class Prompted(NamedTuple):
    """A conversation with its retrieved chunks.

    hits: those in the prompt, in its order. left_out: how many more were found, but exceeded the
    prompt's limit.
    """

    messages: Conversation
    hits: list[Hit]
    left_out: int


class Lookup:
    """Retrieves `k` chunks for each conversation, and puts them into its last user turn."""

    def __init__(self, retriever: Retriever, prompt: ContextPrompt, k: int) -> None:
        self._retriever = retriever
        self._prompt = prompt
        self._k = k

    @classmethod
    def of(cls, model: Model, job: EngineJob) -> "Lookup":
        """What a model of the format `retrieving` does before it answers."""
        index = model.refs["index"]
        assert isinstance(index, Index)
        prompt = ContextPrompt.stored(model.meta["prompt"])
        return cls(Retriever.open(index, job), prompt, model.meta["k"])

    def prompts(self, conversations: Sequence[Conversation]) -> list[Prompted]:
        """The prompt of each conversation. Raises `DataError` for one without a user turn."""
        hits = self.search(conversations)
        return [self.prompted(*pair) for pair in zip(conversations, hits, strict=True)]

    def search(self, conversations: Sequence[Conversation]) -> list[list[Hit]]:
        """The chunks found for each conversation. Raises as `prompts`."""
        questions = [question_of(conversation) for conversation in conversations]
        return self._retriever.search(questions, self._k)

    def prompted(self, conversation: Conversation, hits: list[Hit]) -> Prompted:
        """The prompt with those of the hits that fit."""
        fitting = self._prompt.fitting(hits)
        messages = self._prompt.around(conversation, fitting)
        return Prompted(messages, fitting, len(hits) - len(fitting))
