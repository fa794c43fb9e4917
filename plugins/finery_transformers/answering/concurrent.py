"""An engine that answers many requests at a time, each by itself."""

from collections.abc import Iterable, Iterator, Sequence

from finery import Completion, Engine, FineryError, Request, Sampling
from finery.advanced import Answer, Batch


class ConcurrentEngine(Engine):
    """Base of engines that say with `answers` how they answer; a batch is one request."""

    def answers(
        self, requests: Iterable[tuple[Request, Sampling]]
    ) -> Iterator[tuple[int, Completion | FineryError]]:
        """Yield (number of the request, its answer or why it has none), as they end."""
        raise NotImplementedError

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        """One request each. Those with the same tools and earlier turns follow one another.

        What they begin with is then read once.
        """
        alike: dict[bytes, list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(request.beginning(), []).append(i)
        return [[i] for places in alike.values() for i in places]

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer each request, in order. Raises the first error."""
        answers: dict[int, Completion] = {}
        for number, answer in self.answers((request, sampling) for request in requests):
            if isinstance(answer, FineryError):
                raise answer
            answers[number] = answer
        return [answers[number] for number in range(len(requests))]

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Yield answers as they end; the next request begins as soon as there is room."""
        requests = ((batch[0], sampling.of_attempt(batch[0].attempt)) for batch in batches)
        for number, answer in self.answers(requests):
            yield number, answer if isinstance(answer, FineryError) else [answer]
