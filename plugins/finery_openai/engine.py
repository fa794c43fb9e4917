"""The engine for models of the format `api`."""

import asyncio
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache
from queue import SimpleQueue

import msgspec

from finery import Completion, Engine, EngineJob, FineryError, Model, Request, Sampling
from finery.advanced import Answer, Batch, Price
from finery_openai.client import Client
from finery_openai.model import key_in


class OpenaiEngine(Engine):
    """Sends many requests at a time to a server, through the openai library.

    They run in an event loop in a separate thread, so that answers arrive while the caller
    processes earlier ones.
    """

    version = "1"
    takes_tools = True

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self.constrains = True
        price, variable = model.runtime.get("price"), model.runtime.get("api_key")
        self._key = key_in(variable, job) if variable else None
        self._client: Client | None = None
        self.price = None if price is None else msgspec.convert(price, Price)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Answer requests; raises the first error."""
        answers: dict[int, Completion] = {}
        batches = [[request] for request in requests]
        for number, answer in self.stream(batches, sampling):
            if isinstance(answer, FineryError):
                raise answer
            answers[number] = answer[0]
        return [answers[number] for number in range(len(batches))]

    def timed(self, request: Request, sampling: Sampling) -> tuple[Completion, float | None]:
        """The answer, and when its first token came; None if the server doesn't stream."""
        tokens = list[float]()
        pending = self._open().ask(request, sampling, tokens)
        answer = asyncio.run_coroutine_threadsafe(pending, _loop()).result()
        return answer, next(iter(tokens), None)

    def stream(self, batches: Iterable[Batch], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Yield answers as they arrive. Raises an error that ends all requests after the others."""
        landed: SimpleQueue[tuple[int, Answer | Exception]] = SimpleQueue()
        flying: dict[int, Future[None]] = {}
        concurrency = int(self.model.runtime.get("concurrency", 16))
        room = concurrency + concurrency // 4 + 1  # extra ones wait: a slow caller delays none
        source, has_more = enumerate(batches), True

        async def ask(client: Client, number: int, request: Request) -> None:
            request_sampling = sampling.of_attempt(request.attempt)
            try:
                landed.put((number, [await client.ask(request, request_sampling)]))
            except asyncio.CancelledError:
                if client.ended is not None:  # else nobody is waiting
                    landed.put((number, client.ended))
            except Exception as error:  # raised in the thread that waits for it
                landed.put((number, error))

        try:
            while True:
                while has_more and len(flying) < room and self._end_error is None:
                    number, batch = next(source, (-1, None))
                    has_more = batch is not None
                    if batch is not None:
                        asking = ask(self._open(), number, batch[0])
                        flying[number] = asyncio.run_coroutine_threadsafe(asking, _loop())
                if not flying:
                    break
                number, answer = landed.get()
                del flying[number]
                if isinstance(answer, Exception) and not isinstance(answer, FineryError):
                    raise answer
                if answer is not self._end_error:
                    self.constrains = self._open().constrains
                    yield number, answer
        finally:
            for future in flying.values():
                future.cancel()
        if self._end_error is not None:
            raise self._end_error

    @property
    def _end_error(self) -> FineryError | None:
        return self._client.ended if self._client is not None else None

    def _open(self) -> Client:
        if self._client is None:
            client = Client(self.model, self.job, self._key)
            weakref.finalize(self, _close, client).atexit = False
            self._client = client
        return self._client


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all engines in this process, in a daemon thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="openai", daemon=True).start()
    return loop


def _close(client: Client) -> None:
    asyncio.run_coroutine_threadsafe(client.close(), _loop())
