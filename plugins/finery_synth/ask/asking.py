"""Sends many requests to a model, with flat memory; how many they will be."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from finery import Asked, CachedEngine, Completion, Count, FineryError, Forecast, Request
from finery_synth.ask.prompts import Prompt

T = TypeVar("T")


class Used(msgspec.Struct):
    """Number and tokens of the answers that a step used, cached ones included."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def take(self, answer: Completion | FineryError) -> None:
        """Count an answer; errors don't count."""
        if isinstance(answer, Completion):
            self.requests += 1
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens

    def meta(self) -> dict[str, int]:
        """The counts for a dataset's `meta`; the same whether answers were cached or not."""
        counts: dict[str, int] = msgspec.to_builtins(self)
        return counts


def ask(
    engine: CachedEngine,
    items: Iterable[T],
    request: Callable[[T], Request],
    *,
    total: int,
    progress: str,
    **sampling: Any,
) -> Iterator[tuple[T, Completion | FineryError]]:
    """Yield (item, its answer or error) as answers arrive, each item once.

    Items are taken as requests can be sent; only those in flight are in memory. Raises errors that
    end all requests, e.g. when the budget is reached or the API key is wrong.
    """
    flying: dict[int, T] = {}

    def requests() -> Iterator[Request]:
        for index, item in enumerate(items):
            flying[index] = item
            yield request(item)

    for index, answer in engine.stream(requests(), total=total, progress=progress, **sampling):
        yield flying.pop(index), answer


class AskingForecast(Forecast[Any]):
    """The requests of the first attempt, of a generator or of `synth.judge`."""

    def asks(self, taken: Mapping[str, Sequence[Count | None]], *, built: bool) -> Asked:
        """The requests if the rows are built, otherwise their number if it follows from counts."""
        step = self.step
        asked = Asked("model", None, (), step.sampling(), step.retries, step.budget)
        if built:
            tasks = step.tasks(Prompt.of(step.prompt, step.default_prompt()))
            return asked._replace(
                total=step.requests(step.seed_count()),
                requests=((task.request(0), task.wanted) for task in tasks),
            )
        counts = taken.get("rows", ())
        known = [count.rows for count in counts if count is not None]
        if len(known) < len(counts) or step.needs_rows():
            return asked
        return asked._replace(total=step.requests(sum(known)))
