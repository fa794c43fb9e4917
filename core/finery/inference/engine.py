"""Engines: what answers prompts with a model, whatever the model's format."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

from finery.artifact.kinds import Model
from finery.errors import DataError, FineryError
from finery.inference.types import Answer, Batch, Completion, Sampling
from finery.rows import Conversation

if TYPE_CHECKING:
    from finery.inference.budget import Price, Usage


class EngineJob(Protocol):
    """What an engine may use of the job of the step that asks; `finery.Job` is one.

    usage: what all engines of the step were asked and used so far.
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
        """The engine of another model, without the cache, for one that is built on it."""


class Engine:
    """Answers conversations with one model. Plugins subclass it, one class a model format.

    It is made in the worker, once for each `job.engine(model)`, and loads the model lazily, at
    the first `generate`.

    packages: distributions whose version can change an answer: they are part of the key of every
        step that uses the engine, and with the engine's code of every record.
    version: what stands for code and packages in the keys of records. For engines that only carry
        questions and answers, so that answers which were paid for outlive a change of their code.
    batched: whether requests are answered together, see `batches`; estimates can't tell then which
        of them were answered before.
    constrains: whether answers follow `Sampling.schema`.
    price: what an answer costs; None: nobody knows.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[str] = ""
    batched: ClassVar[bool] = False
    constrains: bool = False
    price: "Price | None"

    def __init__(self, model: Model, job: EngineJob) -> None:
        from finery.inference.budget import Price

        self.model = model
        self.job = job
        self.price = Price(input=0.0, output=0.0)

    def batches(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Rows that are answered together, as indices into `conversations`.

        A batch is the unit of the record cache, since what is beside a row in a batch can change
        the last digits of its logits, and so its answer. Default: each row alone.
        """
        return [[i] for i in range(len(conversations))]

    def generate(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> list[Completion]:
        """Answer one batch, in its order."""
        raise NotImplementedError

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answer batches, in any order: (which one, its answers or why there are none).

        Takes batches as it can begin them. An error that it raises, rather than yields, ends the
        whole (a wrong key, an unknown model); what was answered by then must be yielded before.
        The requests of a batch are of one attempt. Default: `generate`, one batch after the other.
        """
        for number, batch in enumerate(batches):
            try:
                yield number, self._answered(batch, sampling)
            except FineryError as error:
                yield number, error

    def _answered(self, batch: Batch, sampling: Sampling) -> list[Completion]:
        if any(request.tools for request in batch):
            raise DataError(
                f"a model of format '{self.model.format}' can't be offered tools here",
                fix="take a model behind an API, or drop `tools` from the rows",
            )
        conversations = [request.messages for request in batch]
        return self.generate(conversations, sampling.of_attempt(batch[0].attempt))
