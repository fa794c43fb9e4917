"""Engines answer prompts with a model, whatever its format; requests and answers as plain data."""

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import msgspec

from finery.artifact.kinds import Model
from finery.errors import DataError, FineryError, StepError
from finery.key import Key
from finery.rows import Conversation

if TYPE_CHECKING:
    from finery.inference.budget import Price, Usage


CHARACTERS_PER_TOKEN = 4
"""A rough average, for estimates before a model has counted."""

Tools = list[dict[str, Any]]
"""Tools that a model may call, in the shape of the OpenAI Chat Completions API."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How to answer: at most `max_tokens` new tokens, greedily at temperature 0.

    schema: a JSON Schema that the answer's text must follow. Engines that can't constrain answers
        ignore it, see `Engine.constrains`.
    strict: whether an answer that may not follow the schema is an error.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    schema: dict[str, Any] | None = None
    strict: bool = False

    def of_attempt(self, attempt: int) -> "Sampling":
        """The sampling of an attempt: each has a different seed."""
        return msgspec.structs.replace(self, seed=self.seed + attempt) if attempt else self


class Request(msgspec.Struct, frozen=True):
    """A conversation, the tools that the model may call, and the number of the attempt.

    attempt: above 0, a repetition of an earlier request. Its answer is another record, and its seed
    is the sampling's plus this number. A local model's answer can differ only at a temperature
    above 0.
    """

    messages: Conversation
    tools: Tools | None = None
    attempt: int = 0

    def estimated_tokens(self) -> int:
        """Estimated tokens of the prompt, including the tools it offers."""
        content = [self.messages, self.tools] if self.tools else self.messages
        return 1 + len(msgspec.json.encode(content)) // CHARACTERS_PER_TOKEN

    def beginning(self) -> bytes:
        """All but the last turn, and the tools: what prompts with an equal one have in common."""
        return msgspec.json.encode([*self.messages[:-1], self.tools])


class Completion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer.

    finish_reason: `stop` (end of turn), `length` (cut at max_tokens), `tool_calls`, or `refusal`
    (only if the caller accepts refusals as answers).
    tool_calls: in the shape of the OpenAI Chat Completions API, `arguments` as JSON text.
    reasoning: the thinking before the answer, which is no part of `text`. An answer that was cut
        while the model was thinking has no text.
    call_error: why the answer's apparent tool call can't be parsed. It is then part of `text`.
    probability: that the whole answer is right, as the model itself says, from 0 to 1. Only
        classifiers give it.
    logprob: the natural logarithm of the probability of its tokens, the one that ends it included,
        as the model has them before sampling. Only models that transformers runs give it.
    stage_tokens: of a model that asks others: each that it asked, in order → the tokens of its
        prompt and its answer. The last one gave this answer.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tool_calls: list[dict[str, Any]] | None = None
    reasoning: str | None = None
    call_error: str | None = None
    probability: float | None = None
    logprob: float | None = None
    stage_tokens: dict[str, tuple[int, int]] | None = None

    @property
    def stage(self) -> str | None:
        """Which of several models gave the answer."""
        return next(reversed(self.stage_tokens), None) if self.stage_tokens else None

    @property
    def is_empty(self) -> bool:
        """Whether it has neither text nor tool calls."""
        return not self.text.strip() and not self.tool_calls


Batch = list[Request]
"""Requests that an engine answers together."""
Answer = list[Completion] | FineryError
"""The outcome of a batch: its rows' answers in order, or an error."""


class Identity(NamedTuple):
    """What answers, in keys of records: an engine's code and packages, or a model with its engines.

    held: the same for answers that are held to a JSON Schema, with the packages that do that. None:
    these packages aren't in the key of the step, because it declares that it sends no schema.
    """

    free: str
    held: str | None

    def of(self, sampling: Sampling) -> str:
        """The one that counts. `StepError` for a schema that isn't declared."""
        if sampling.schema is None:
            return self.free
        if self.held is None:
            raise StepError(
                "the step holds answers to a JSON Schema, but its `cache_key` has no `schemas`",
                fix="return True there: the packages that do it must be in the key",
            )
        return self.held


class EngineJob(Protocol):
    """The part of a step's job that an engine may use; `finery.Job` is one.

    usage: usage of all engines of the step so far.
    """

    usage: "Usage"

    def log(self, message: str) -> None:
        """Add a line to the step's log."""

    def progress(self, done: float, total: float, text: str = "") -> None:
        """Report how far the step is, e.g. while a model is loaded."""

    def secret(self, name: str) -> str:
        """An environment variable that the model needs (`runtime["env"]`)."""

    def redact(self, text: str) -> str:
        """The text with secrets as `***`: a server may repeat the key that it was sent."""

    def raw_engine(self, model: Model) -> "Engine":
        """The engine of another model, without the cache, for an engine that builds on it."""


class Engine:
    """Answers conversations with one model. Plugins subclass it, one class a model format.

    It is created in the worker, once for each `job.engine(model)`, and loads the model lazily, at
    the first `generate`.

    packages: distributions with versions that can change an answer. They are part of the key of
        every step that uses the engine and, with the engine's code, of every record.
    schema_packages: distributions that only hold answers to `Sampling.schema`. They are part of
        the keys of steps that may send one, see `Key.schemas`, and of such records.
    version: replaces code and packages in the keys of records. For engines that only transport
        requests and answers, so that paid answers outlive a change of the engine's code.
    batched: whether requests are answered together, see `batches`. Estimates then can't know which
        requests are cached.
    constrains: whether answers follow `Sampling.schema`.
    takes_tools: whether it offers a request's tools to the model. Others refuse such requests.
    price: what an answer costs; None: unknown.
    standalone: a module that answers without finery, for models that read texts. It imports the
        standard library and `packages` only. `Answers(folder, meta)` of it, with those of the
        model, returns a function from texts to answers. `serve.bundle` ships the module's file.
    local: whether it holds the model in the memory of the step's process. Such a step gets its own
        process, so that its memory is free afterwards.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    schema_packages: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[str] = ""
    batched: ClassVar[bool] = False
    standalone: ClassVar[ModuleType | None] = None
    local: ClassVar[bool] = False
    constrains: bool = False
    takes_tools: bool = False
    price: "Price | None"

    def __init__(self, model: Model, job: EngineJob) -> None:
        from finery.inference.budget import Price

        self.model = model
        self.job = job
        self.price = Price(input=0.0, output=0.0)

    @classmethod
    def cache_key(cls) -> Key:
        """What is in the keys of steps and records, by default its `packages`.

        Join more with `|`, e.g. `super().cache_key() | Key(facts={"dtype": "bf16"})`. Called for
        each plan, so it must be light.
        """
        return Key(packages=cls.packages)

    @classmethod
    def uses_gpu(cls) -> bool:
        """Whether it uses a GPU if the machine has one. Called in the main process."""
        return cls.local

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """Requests that are answered together, as indices into `requests`.

        A batch is the unit of the record cache, since the other rows of a batch can change the
        last digits of a row's logits, and so its answer. Default: each request alone.
        """
        return [[i] for i in range(len(requests))]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer one batch, in its order. `sampling` is already that of the requests' attempt."""
        raise NotImplementedError

    def timed(self, request: Request, sampling: Sampling) -> tuple[Completion, float | None]:
        """(answer, `time.perf_counter()` at its first token), for steps that measure speed.

        None if the engine doesn't notice the first token, as by default.
        """
        return self.generate([request], sampling)[0], None

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Yield (index of the batch, its answers or its error), in any order.

        Takes batches as it can begin them. An error that it raises rather than yields ends all
        requests (e.g. a wrong API key or an unknown model); answers that exist by then must be
        yielded first. The requests of a batch have the same attempt. Default: calls `generate` for
        one batch after the other.
        """
        for number, batch in enumerate(batches):
            try:
                yield number, self._answered(batch, sampling)
            except FineryError as error:
                yield number, error

    def _answered(self, batch: Batch, sampling: Sampling) -> list[Completion]:
        if not self.takes_tools and any(request.tools for request in batch):
            raise DataError(
                f"the engine of the format '{self.model.format}' can't offer tools to its model",
                fix="use a model of another format, or remove `tools` from the rows",
            )
        return self.generate(batch, sampling.of_attempt(batch[0].attempt))
