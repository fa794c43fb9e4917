"""Embeddings with a cache in front: each text is embedded once by the same model."""

import time
from collections.abc import Mapping, Sequence

import msgspec
from blake3 import blake3

from finery import EngineJob, Job, Model, StepError, version_of
from finery_retrieve.embed.embedder import Embedder, Embedding, Side

FLOAT_BYTES = 4
AGAIN_SECONDS = 0.1
"""How often to look for embeddings that another process computes."""


class CachedEmbedder:
    """An embedding model with the project's record cache, if the job has one.

    computed, cached: how many embeddings the model made so far, and how many came from the cache.
    """

    def __init__(self, model: Model, job: EngineJob) -> None:
        engine = job.raw_engine(model)
        if not isinstance(engine, Embedder):
            raise StepError(
                f"a model of the format '{model.format}' can't embed texts",
                fix="use a model made by retrieve.embedder, retrieve.wheel or retrieve.api",
            )
        self.computed = self.cached = 0
        self._engine = engine
        self._records = job.records if isinstance(job, Job) else None
        self._identity = _identity(model, engine)

    @property
    def batch(self) -> int:
        """How many texts to embed at once."""
        return self._engine.batch

    def embed(self, texts: Sequence[str], side: Side) -> list[Embedding]:
        """The embedding of each text. New ones are stored before this returns."""
        keys = [self._key(text, side) for text in texts]
        known = self._known(keys)
        new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        before = self.computed
        known |= self._computed(new, side) if self._records is None else self._shared(new, side)
        self.cached += len(texts) - (self.computed - before)
        return [known[key] for key in keys]

    def _computed(self, new: Mapping[bytes, str], side: Side) -> dict[bytes, Embedding]:
        if not new:
            return {}
        self.computed += len(new)
        return dict(zip(new, self._engine.embed([*new.values()], side), strict=True))

    def _shared(self, new: Mapping[bytes, str], side: Side) -> dict[bytes, Embedding]:
        """Compute and store embeddings, and wait for those that another process computes."""
        assert self._records is not None
        embeddings = dict[bytes, Embedding]()
        while waiting := [key for key in new if key not in embeddings]:
            ours = [key for key in waiting if self._records.claim(key)]
            try:
                embeddings |= self._known(waiting)  # another process stored them meanwhile
                mine = {key: new[key] for key in ours if key not in embeddings}
                computed = self._computed(mine, side)
                self._records.put({key: _record(one) for key, one in computed.items()})
                embeddings |= computed
            finally:
                for key in ours:
                    self._records.release(key)
            if not ours:
                time.sleep(AGAIN_SECONDS)
        return embeddings

    def _known(self, keys: Sequence[bytes]) -> dict[bytes, Embedding]:
        if self._records is None:
            return {}
        records = self._records.get(list(dict.fromkeys(keys)))
        return {
            key: Embedding(record[1:], bool(record[0]))
            for key, record in records.items()
            if len(record) > 1 and len(record) % FLOAT_BYTES == 1  # a damaged one is missing
        }

    def _key(self, text: str, side: Side) -> bytes:
        return blake3(msgspec.json.encode(["embedding", self._identity, side, text])).digest()


def _record(embedding: Embedding) -> bytes:
    return bytes([embedding.was_cut]) + embedding.vector


def _identity(model: Model, engine: Embedder) -> str:
    """The model in the keys of embeddings: its content, and what computes them."""
    versions = {name: version_of(name) for name in engine.packages}
    facts = [model.digest, model.meta, engine.version, versions]
    return blake3(msgspec.json.encode(facts, order="deterministic")).hexdigest()
