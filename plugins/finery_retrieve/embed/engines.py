"""Engines of models that retrieve: those that embed texts, here or behind an API, and rerankers."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, Literal, NamedTuple

import msgspec

from finery import (
    Completion,
    DataError,
    Engine,
    EngineJob,
    FineryError,
    Model,
    Request,
    Sampling,
    StepError,
)
from finery.advanced import Price
from finery_openai import faults
from finery_openai.model import key_in
from finery_retrieve.embed.layout import Layout
from finery_transformers.hardware import accelerator

Side = Literal["document", "question"]
"""The role of a text. Some models want a different prefix for each."""
SIDES: tuple[Side, ...] = ("document", "question")


class Embedding(NamedTuple):
    """The embedding of a text.

    vector: little-endian float32, of length 1 as a vector. was_cut: whether the text was longer
    than the model reads, so that only its beginning is embedded.
    """

    vector: bytes
    was_cut: bool

    @property
    def dimensions(self) -> int:
        """Length of the vectors."""
        return len(self.vector) // 4


class Interrupted(Exception):
    """An engine embedded only some of the texts.

    embeddings: by the number of the text. reason: what to raise once these are stored.
    """

    def __init__(self, embeddings: Mapping[int, Embedding], reason: BaseException) -> None:
        super().__init__(str(reason))
        self.embeddings = embeddings
        self.reason = reason


class Embedder(Engine):
    """An engine that embeds texts, and answers no prompts.

    batch: how many texts to embed at once.
    """

    batch: int = 32

    def embed(self, texts: Sequence[str], side: Side) -> list[Embedding]:
        """The embedding of each text, which doesn't depend on the other texts.

        May raise `Interrupted` with what is finished, so that it isn't computed again.
        """
        raise NotImplementedError

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Raise `DataError`: it can't."""
        raise DataError(
            "an embedding model can't answer prompts",
            fix="name a language model; embedding models are for retrieve.index",
        )


def pack_vector(values: Sequence[float]) -> bytes:
    """A vector scaled to length 1, as bytes. `ValueError` if that isn't possible."""
    import numpy as np

    vector = np.asarray(values, dtype=np.float64)
    length = float(np.linalg.norm(vector))
    if vector.ndim != 1 or not np.isfinite(length) or length == 0.0:
        raise ValueError("it has a length of 0 or isn't finite")
    return (vector / length).astype("<f4").tobytes()


class LocalEmbedder(Embedder):
    """Computes embeddings with transformers, in float32, as sentence-transformers does.

    One text at a time: in a batch, other texts change the last digits of an embedding, so an index
    would depend on which of its chunks are new.
    """

    local = True
    packages = ("torch", "transformers", "tokenizers")

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self._alone = Lock()  # tokenizers can't be used by several threads at once

    def embed(self, texts: Sequence[str], side: Side) -> list[Embedding]:
        """The embedding of each text: the model's last states, pooled and scaled to length 1."""
        import torch

        with self._alone, torch.inference_mode():
            return [self._embedding(text, side) for text in texts]

    def _embedding(self, text: str, side: Side) -> Embedding:
        import torch

        model, tokenizer, layout, longest = self._loaded
        text = (layout.question_prefix if side == "question" else layout.document_prefix) + text
        text = text.lower() if layout.lower else text
        tokens = tokenizer(text, verbose=False)["input_ids"]
        was_cut = len(tokens) > longest
        if was_cut:
            tokens = tokenizer(text, truncation=True, max_length=longest)["input_ids"]
        ids = torch.tensor([tokens], device=model.device)
        states: torch.Tensor = model(
            input_ids=ids, attention_mask=torch.ones_like(ids)
        ).last_hidden_state[0]
        states = states.float()
        pooled = states[0] if layout.pooling == "cls" else states.mean(dim=0)
        return Embedding(pack_vector(pooled.tolist()), was_cut)

    @cached_property
    def _loaded(self) -> "_Loaded":
        from finery_transformers.loading import load_encoder

        layout = msgspec.convert(self.model.meta["embedding"], Layout)
        try:
            model, tokenizer = load_encoder(self.model.path)
        except (OSError, ValueError, KeyError) as error:
            raise StepError(
                f"the embedding model can't be loaded: {error}", fix="download the model again"
            ) from error
        model.eval().to(accelerator())
        positions = getattr(model.config, "max_position_embeddings", None)
        limits = [layout.longest, tokenizer.model_max_length, positions]
        return _Loaded(model, tokenizer, layout, min(n for n in limits if n is not None))


class _Loaded(NamedTuple):
    """longest: tokens that the model reads, with its control tokens."""

    model: Any
    tokenizer: Any
    layout: Layout
    longest: int


SHOWN_CHARACTERS = 60
"""Characters of a text that an error shows."""


class _Item(msgspec.Struct):
    index: int
    embedding: list[float]


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[_Item]
    usage: _Usage = msgspec.field(default_factory=_Usage)


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
        return asyncio.run(self._embed_all(inputs))

    async def _embed_all(self, texts: list[str]) -> list[Embedding]:
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
            batches = [
                texts[start : start + self._size] for start in range(0, len(texts), self._size)
            ]
            tasks = [self._request_batch(client, slots, batch) for batch in batches]
            answers = await asyncio.gather(*tasks, return_exceptions=True)
        embeddings = dict[int, Embedding]()
        for batch, answer in enumerate(answers):
            if not isinstance(answer, BaseException):
                embeddings |= enumerate(answer, batch * self._size)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if errors:
            raise Interrupted(embeddings, errors[0])
        return [*embeddings.values()]

    async def _request_batch(
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
                raise self._error_for(error) from None
        try:
            answer = msgspec.json.decode(response.content, type=_Answer)
        except msgspec.DecodeError as error:
            raise self._unusable_answer(
                f"an answer that isn't a list of embeddings ({error})"
            ) from None
        if sorted(item.index for item in answer.data) != [*range(len(texts))]:
            raise self._unusable_answer(f"{len(answer.data)} embeddings for {len(texts)} texts")
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

    def _embedding(self, item: _Item, text: str) -> Embedding:
        try:
            return Embedding(pack_vector(item.embedding), was_cut=False)
        except ValueError as error:
            text_start = self.job.redact(text[:SHOWN_CHARACTERS])
            raise self._unusable_answer(
                f"an unusable embedding of '{text_start}': {error}"
            ) from None

    def _unusable_answer(self, problem: str) -> StepError:
        return StepError(
            f"{self.model.meta['server']} sent {problem}",
            fix="check that base_url names an API with /embeddings, and that model is an embedding "
            "model",
        )

    def _error_for(self, error: Exception) -> Exception:
        """The error to raise for an error of the openai library."""
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


DIGITS = 5
"""Digits of a score after the point. Further ones differ between machines."""


class Reranker(Engine):
    """An engine that scores chunks, and answers no prompts."""

    @classmethod
    def of(cls, model: Model, job: EngineJob) -> "Reranker":
        """The engine of a model. `StepError` for a model of another format."""
        engine = job.raw_engine(model)
        if not isinstance(engine, Reranker):
            raise StepError(
                f"a model of the format '{model.format}' can't rerank chunks",
                fix="use a model made by rerank.train",
            )
        return engine

    def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        """How well each text answers the question; higher is better."""
        raise NotImplementedError

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Completion]:
        """Raise `DataError`: it can't."""
        raise DataError(
            "a reranker can't answer prompts",
            fix="name a language model; rerankers are for retrieve.rerank",
        )


class LocalReranker(Reranker):
    """Scores pairs with transformers, in float32, as sentence-transformers does.

    One pair at a time: in a batch, other pairs change the last digits of a score.
    """

    local = True
    packages = ("torch", "transformers", "tokenizers")

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self._alone = Lock()  # tokenizers can't be used by several threads at once

    def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        """The model's logit of each pair."""
        import torch

        model, tokenizer = self._loaded
        scores = []
        with self._alone, torch.inference_mode():
            for text in texts:
                pair = tokenizer(
                    question, text, truncation=True, max_length=self.model.meta["longest"],
                    return_tensors="pt",
                )  # fmt: skip
                logits = model(**pair.to(model.device)).logits
                scores.append(round(float(logits[0, 0]), DIGITS))
        return scores

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        from finery_transformers.loading import quiet

        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(self.model.path, local_files_only=True)
            model: Any = AutoModelForSequenceClassification.from_pretrained(
                self.model.path, local_files_only=True, dtype=torch.float32
            )
        return model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer
