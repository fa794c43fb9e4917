"""Engines answer prompts with a model, whatever the model's format."""

from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Protocol

from finery.artifact.kinds import Model
from finery.errors import DataError, FineryError
from finery.inference.types import Answer, Batch, Completion, Request, Sampling
from finery.key import Key

if TYPE_CHECKING:
    from finery.inference.budget import Price, Usage


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
