"""The engine for embedding models behind an API."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from finery import Completion, EngineJob, FineryError, Model, Price, StepError
from finery_openai import faults
from finery_openai.key import key_in
from finery_retrieve.embed.embedder import Embedder, Embedding, Interrupted, Side, packed

SHOWN = 60
"""Characters of a text that an error shows."""


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Used(msgspec.Struct):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[_Item]
    usage: _Used = msgspec.field(default_factory=_Used)


class RemoteEmbedder(Embedder):
    """Sends texts to a server, several in a request, through the openai library."""

    version = "1"

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        price, variable = model.runtime.get("price"), model.runtime.get("api_key")
        self._key = key_in(variable, job) if variable else None
        self._size = int(model.runtime.get("batch", 64))
        self._flying = int(model.runtime.get("concurrency", 4))
        self.batch = self._size * self._flying
        self.price = None if price is None else msgspec.convert(price, Price)

    def embed(self, texts: Sequence[str], side: Side) -> list[Embedding]:
        """The embedding of each text.

        A failed request raises `Interrupted` with its error, after the requests in flight.
        """
        prefix = self.model.meta[f"{side}_prefix"]
        inputs = [prefix + text for text in texts]
        return asyncio.run(self._all(inputs))

    async def _all(self, texts: list[str]) -> list[Embedding]:
        from openai import AsyncOpenAI

        from finery_openai.transport import CautiousClient

        slots = asyncio.Semaphore(self._flying)
        runtime = self.model.runtime
        async with AsyncOpenAI(
            base_url=self.model.meta["server"],
            api_key=self._key or "none",
            http_client=CautiousClient(float(runtime.get("timeout", 60.0))),
            max_retries=int(runtime.get("retries", 6)),
        ) as client:
            parts = [texts[at : at + self._size] for at in range(0, len(texts), self._size)]
            tasks = [self._some(client, slots, part) for part in parts]
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        embeddings = dict[int, Embedding]()
        for part, answer in enumerate(answers):
            if not isinstance(answer, BaseException):
                embeddings |= enumerate(answer, part * self._size)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors:
            raise Interrupted(embeddings, errors[0])
        return [*embeddings.values()]

    async def _some(
        self, client: Any, slots: asyncio.Semaphore, texts: list[str]
    ) -> list[Embedding]:
        """One request."""
        meta = self.model.meta
        size = {"dimensions": meta["dimensions"]} if "dimensions" in meta else {}
        async with slots:
            try:
                response = await client.embeddings.with_raw_response.create(
                    model=meta["name"], input=texts, encoding_format="float", **size
                )
            except Exception as error:
                raise self._explained(error) from None
        answer = self._read(response.content, texts)
        self.job.usage.add(
            Completion(
                text="",
                finish_reason="stop",
                prompt_tokens=answer.usage.prompt_tokens,
                completion_tokens=0,
            ),
            self.price,
        )
        ordered = sorted(answer.data, key=lambda item: item.index)
        return [self._embedding(item, text) for item, text in zip(ordered, texts, strict=True)]

    def _read(self, content: bytes, texts: Sequence[str]) -> _Answer:
        try:
            answer = msgspec.json.decode(content, type=_Answer)
        except msgspec.DecodeError as error:
            raise self._unusable(f"an answer that isn't a list of embeddings ({error})") from None
        if sorted(item.index for item in answer.data) != [*range(len(texts))]:
            raise self._unusable(f"{len(answer.data)} embeddings for {len(texts)} texts")
        return answer

    def _embedding(self, item: _Item, text: str) -> Embedding:
        try:
            return Embedding(packed(item.embedding), was_cut=False)
        except ValueError as error:
            shown = self.job.redact(text[:SHOWN])
            raise self._unusable(f"an unusable embedding of '{shown}': {error}") from None

    def _unusable(self, what: str) -> StepError:
        return StepError(
            f"{self.model.meta['server']} sent {what}",
            fix="check that base_url names an API with /embeddings, and that model is an embedding "
            "model",
        )

    def _explained(self, error: Exception) -> Exception:
        """What to raise for an error of the openai library."""
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        cause = error if isinstance(error, faults.Fault) else error.__cause__
        if isinstance(cause, faults.Fault):
            return cause.error
        if isinstance(error, FineryError):
            return error
        if isinstance(error, APIStatusError):
            message = faults.message(error, self.job.redact)
            meta, variable = self.model.meta, self.model.runtime.get("api_key")
            fault = faults.from_status(error, message, meta, variable)
            return fault.denial or fault.error
        if isinstance(error, (APITimeoutError, APIConnectionError, TimeoutError)):
            return faults.unreachable(self.model.meta["server"], error, self.job.redact)
        return error
