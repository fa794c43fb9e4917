"""The engine of the format `cascade`: it asks one model after the other, until one is sure."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, cast

import msgspec

from finery import Completion, Engine, EngineJob, FineryError, Model, Request, Sampling, setting
from finery.advanced import Answer, Batch, Price, RefusedError
from finery_cascade import stages
from finery_cascade.confidence import confidence_of

WINDOW = 256
"""Batches that are asked together, so that a model behind an API gets many requests at a time."""


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


@dataclass
class _Row:
    """A request, what was said last, and the tokens of each stage that was asked so far."""

    request: Request
    said: Completion | FineryError | None = None
    tokens: dict[str, tuple[int, int]] = field(default_factory=dict)
    is_open: bool = True

    def add(self, stage: _Stage, answer: Completion) -> None:
        """Note what a stage says. Close the row if that is sure of it."""
        self.tokens[stage.name] = answer.prompt_tokens, answer.completion_tokens
        asked, written = map(sum, zip(*self.tokens.values(), strict=True))
        self.said = msgspec.structs.replace(
            answer, stage_tokens=self.tokens, prompt_tokens=asked, completion_tokens=written
        )
        limit = stage.threshold
        self.is_open = limit is not None and confidence_of(answer, stage.name) <= limit


class CascadeEngine(Engine):
    """Asks the models in order, and gives the first answer that is above the model's threshold."""

    batched = True
    local = True  # as one of its models may be
    standalone: ClassVar[ModuleType | None] = stages

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        facts = model.meta["stages"]
        roles = [stages.role(number) for number in range(len(facts))]
        engines = [job.raw_engine(cast(Model, model.refs[role])) for role in roles]
        self.constrains = all(engine.constrains for engine in engines)
        self.takes_tools = all(engine.takes_tools for engine in engines)
        every = [
            _Stage(stage["model"], engine, stage.get("threshold"))
            for stage, engine in zip(facts, engines, strict=True)
        ]
        prices = {stage.name: p for stage in every if (p := stage.engine.price) is not None}
        sums = [sum(getattr(p, part) for p in prices.values()) for part in ("input", "output")]
        # Budgets allow for the sum, the most that an answer can cost.
        whole = StagePrices(input=sums[0], output=sums[1], stages=prices)
        self.price = whole if len(prices) == len(every) else None
        self._stages = [s for s in every[:-1] if s.threshold is not None] + every[-1:]

    @classmethod
    def uses_gpu(cls) -> bool:
        """No: the engines of its models say so."""
        return False

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Those of the first model that answers in batches: a request's answer depends on them."""
        engines = [stage.engine for stage in self._stages]
        return next((e for e in engines if e.batched), engines[0]).batches(requests)

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
            batches_of_rows = [[_Row(request) for request in batch] for _, batch in window]
            ended = None
            try:
                for stage in self._stages:
                    _ask(stage, batches_of_rows, sampling)
            except FineryError as error:  # of all requests, e.g. a wrong key
                ended = error
            for (number, _), rows in zip(window, batches_of_rows, strict=True):
                errors = [row.said for row in rows if isinstance(row.said, FineryError)]
                if errors or not any(row.is_open for row in rows):
                    answers = [row.said for row in rows if isinstance(row.said, Completion)]
                    yield number, errors[0] if errors else answers
            if ended is not None:
                raise ended


def _ask(stage: _Stage, batches: Sequence[Sequence[_Row]], sampling: Sampling) -> None:
    """Have a stage answer the open rows, and close those that it is sure of."""
    asked: list[list[_Row]] = []
    for batch in batches:
        rows = [row for row in batch if row.is_open]
        numbers = stage.engine.batches([row.request for row in rows]) if rows else []
        asked += [[rows[i] for i in together] for together in numbers]
    requests = ([row.request for row in rows] for rows in asked)
    for number, answer in stage.engine.stream(requests, sampling):
        if isinstance(answer, RefusedError) and len(asked[number]) == 1:
            refusal: dict[str, Any] = {"text": answer.text, "finish_reason": "refusal"}
            answer = [Completion(**refusal, prompt_tokens=0, completion_tokens=0)]
        for place, row in enumerate(asked[number]):
            if isinstance(answer, FineryError):
                row.said, row.is_open = answer, False
            else:
                row.add(stage, answer[place])
