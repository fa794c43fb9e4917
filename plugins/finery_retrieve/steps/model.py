"""`retrieve.model`: a model that looks up each question before it answers."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import msgspec

from finery import (
    Answer,
    Batch,
    Completion,
    Engine,
    EngineJob,
    Job,
    Model,
    Request,
    Sampling,
    takes,
)
from finery.rows import Conversation
from finery_retrieve.formats import RETRIEVING, require_answering
from finery_retrieve.index.context import ContextStep, Lookup


class RetrieveModel(ContextStep, sections=("models",), seeded=False):
    """Retrieve documents for the last user turn of each prompt, and answer from them.

    The result is a model like any other: evaluators judge it, and compare it with the model without
    documents. Its prompts are those of `retrieve.rows` with the same settings.
    """

    model: Model = takes(help="The model that answers.")

    def static_meta(self) -> dict[str, Any]:
        """The format, for the checks of steps that take the model."""
        return {"format": RETRIEVING}

    def check(self) -> None:
        """Raise `UsageError` for settings and models that can't work. Light: reads no input."""
        super().check()
        require_answering(self.model, "model")

    def run(self, job: Job) -> Model:
        """Describe the model. Nothing is retrieved yet."""
        meta = {"format": RETRIEVING, "k": self.k, "prompt": self.template().facts()}
        return Model(job.out, meta=meta, refs={"model": self.model, "index": self.index})


REMEMBERED = 2_048
"""Prompts that are remembered between forming batches and answering them."""


class RetrievingEngine(Engine):
    """Puts documents into the last user turn, and passes the conversation to the model's engine."""

    packages = ("bm25s", "PyStemmer")

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        under = model.refs["model"]
        assert isinstance(under, Model)
        self._under = job.raw_engine(under)
        self._prompts: OrderedDict[bytes, Conversation] = OrderedDict()
        self._has_logged_limit = False
        self.constrains = self._under.constrains
        self.takes_tools = self._under.takes_tools
        self.price = self._under.price

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """The batches of the model's engine for the complete prompts."""
        return self._under.batches(self._with_documents(requests))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch. The documents count as prompt tokens."""
        return self._under.generate(self._with_documents(requests), sampling)

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answer batches with the model's engine."""
        whole = (self._with_documents(batch) for batch in batches)
        for answered in self._under.stream(whole, sampling):
            self.constrains = self._under.constrains  # a server's answers show it
            yield answered

    def _with_documents(self, requests: Sequence[Request]) -> list[Request]:
        keys = [msgspec.json.encode(request.messages) for request in requests]
        new = {
            key: request.messages
            for key, request in zip(keys, requests, strict=True)
            if key not in self._prompts
        }
        for key, prompted in zip(new, self._lookup.prompts([*new.values()]), strict=True):
            self._prompts[key] = prompted.messages
            self._log_limit(prompted.left_out)
        prompts = [self._prompts[key] for key in keys]
        while len(self._prompts) > REMEMBERED:
            self._prompts.popitem(last=False)
        return [
            msgspec.structs.replace(request, messages=messages)
            for request, messages in zip(requests, prompts, strict=True)
        ]

    def _log_limit(self, left_out: int) -> None:
        """Say once that prompts are limited."""
        if left_out and not self._has_logged_limit:
            self._has_logged_limit = True
            limit = self.model.meta["prompt"]["limit"]
            self.job.log(f"prompts contain fewer chunks than were found: limit is {limit:,} tokens")

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup.of(self.model, self.job)
