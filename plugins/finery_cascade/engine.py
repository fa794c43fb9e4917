"""The engine of the format `cascade`: it asks one model after the other, until one is sure."""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import msgspec

from finery import (
    Completion,
    Engine,
    EngineJob,
    FineryError,
    Model,
    Request,
    Sampling,
    UsageError,
    setting,
)
from finery.advanced import Answer, Batch, Price, RefusedError
from finery_cascade import stages

WINDOW = 256
"""Batches that are asked together, so that a model behind an API gets many requests at a time."""


def confidence_of(answer: Completion, model: str) -> float:
    """How sure a model is of its answer, from 0 to 1: its probability, or that of its tokens.

    0 for an answer that is empty, refused or cut off. `UsageError` for a model that gives neither.
    """
    if answer.is_empty or answer.finish_reason in ("length", "refusal"):
        return 0.0
    if answer.probability is not None:
        return answer.probability
    if answer.logprob is None:
        raise without_confidence(model)
    return math.exp(min(0.0, answer.logprob))


def without_confidence(model: str) -> UsageError:
    """The error for a model that can't be a stage before the last one."""
    return UsageError(
        f"'{model}' doesn't say how sure it is of an answer, so it can only be the last model",
        where="models",
        fix="classifiers (encoder.classify, onnx.export, baseline.linear) and language models that "
        "transformers runs (trl.sft, hub.model) say it",
    )


class StagePrices(Price):
    """What the answers of a cascade cost: that of all models that it asked for each."""

    stages: dict[str, Price] = setting({}, help="The price of each model.")

    def of_answer(self, answer: Completion) -> float:
        """Dollars for an answer with its prompts."""
        asked = (answer.stage_tokens or {}).items()
        return math.fsum(self.stages[name].of(*tokens) for name, tokens in asked)


class _Stage(NamedTuple):
    """A model. threshold: it answers if its confidence is above that; None: it always does."""

    name: str
    engine: Engine
    threshold: float | None

    def answers(self, completion: Completion) -> bool:
        limit = self.threshold
        return limit is None or confidence_of(completion, self.name) > limit


class _Talk(NamedTuple):
    """The requests of a batch. answers: what is said last. tokens: of each stage asked so far."""

    number: int
    batch: Batch
    open: set[int]
    answers: dict[int, Completion]
    tokens: list[dict[str, tuple[int, int]]]
    failed: list[FineryError]

    def outcome(self) -> Answer:
        """The answers of the batch, or the first error."""
        if self.failed:
            return self.failed[0]
        return [
            msgspec.structs.replace(
                self.answers[i],
                stage_tokens=tokens,
                prompt_tokens=sum(prompt for prompt, _ in tokens.values()),
                completion_tokens=sum(written for _, written in tokens.values()),
            )
            for i, tokens in enumerate(self.tokens)
        ]


class CascadeEngine(Engine):
    """Asks the models in order, and gives the first answer that is above the model's threshold."""

    batched = True
    local = True  # as one of its models may be
    standalone: ClassVar[ModuleType | None] = stages

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        engines = [job.raw_engine(part) for part in self._parts]
        self.constrains = all(engine.constrains for engine in engines)
        self.takes_tools = all(engine.takes_tools for engine in engines)
        names = [stage["model"] for stage in model.meta["stages"]]
        prices = {n: e.price for n, e in zip(names, engines, strict=True) if e.price is not None}
        self.price = None
        if len(prices) == len(engines):  # at most the sum, for budgets
            sums = (sum(getattr(p, part) for p in prices.values()) for part in ("input", "output"))
            self.price = StagePrices(input=next(sums), output=next(sums), stages=prices)
        self._stages = [
            _Stage(stage["model"], engine, stage.get("threshold"))
            for stage, engine in zip(model.meta["stages"], engines, strict=True)
            if "threshold" not in stage or stage["threshold"] is not None  # else it never answers
        ]

    @classmethod
    def uses_gpu(cls) -> bool:
        """No: the engines of its models say so."""
        return False

    @property
    def _parts(self) -> Iterator[Model]:
        for number in range(len(self.model.meta["stages"])):
            part = self.model.refs[stages.role(number)]
            assert isinstance(part, Model)
            yield part

    @cached_property
    def _batching(self) -> Engine:
        """The first engine that answers requests together, else the first one."""
        engines = [stage.engine for stage in self._stages]
        return next((engine for engine in engines if engine.batched), engines[0])

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Those of the first model that answers in batches: a request's answer depends on them."""
        return self._batching.batches(requests)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch."""
        ((_, answer),) = self.stream([[*requests]], sampling)
        if isinstance(answer, FineryError):
            raise answer
        return answer

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answer many batches at a time, one stage after the other."""
        source = enumerate(batches)
        while window := list(islice(source, WINDOW)):
            talks = [
                _Talk(number, batch, {*range(len(batch))}, {}, [{} for _ in batch], [])
                for number, batch in window
            ]
            ended = None
            try:
                for stage in self._stages:
                    _ask(stage, talks, sampling)
            except FineryError as error:  # of all requests, e.g. a wrong key
                ended = error
            for talk in talks:
                if talk.failed or not talk.open:
                    yield talk.number, talk.outcome()
            if ended is not None:
                raise ended


def _ask(stage: _Stage, talks: Sequence[_Talk], sampling: Sampling) -> None:
    """Have a stage answer what is open, and close what it is sure of."""
    asked: list[tuple[_Talk, list[int]]] = []
    for talk in talks:
        places = [] if talk.failed else sorted(talk.open)
        batches = stage.engine.batches([talk.batch[i] for i in places]) if places else []
        asked += [(talk, [places[i] for i in batch]) for batch in batches]
    requests = ([talk.batch[i] for i in places] for talk, places in asked)
    for number, answer in stage.engine.stream(requests, sampling):
        talk, places = asked[number]
        if isinstance(answer, RefusedError) and len(places) == 1:
            said: dict[str, Any] = {"text": answer.text, "finish_reason": "refusal"}
            answer = [Completion(**said, prompt_tokens=0, completion_tokens=0)]
        if isinstance(answer, FineryError):
            talk.failed.append(answer)
            continue
        for place, completion in zip(places, answer, strict=True):
            tokens = completion.prompt_tokens, completion.completion_tokens
            talk.tokens[place][stage.name] = tokens
            talk.answers[place] = completion
            if stage.answers(completion):
                talk.open.discard(place)
