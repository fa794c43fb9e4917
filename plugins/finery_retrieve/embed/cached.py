"""Embeddings with a cache: each text is embedded only once by the same model."""

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import msgspec
from blake3 import blake3

from finery import EngineJob, Job, Model, StepError
from finery_retrieve.embed.engines import SIDES, Embedder, Embedding, Interrupted, Side

FLOAT_BYTES = 4
RECHECK_SECONDS = 0.1
"""How often to look for embeddings that another process computes."""


class UnexpectedLength(Exception):
    """The model gives vectors of another length than expected. dimensions: theirs."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(f"vectors of length {dimensions}")
        self.dimensions = dimensions


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
        self._identities = {side: _identity(model, engine, side) for side in SIDES}

    @property
    def batch(self) -> int:
        """How many texts to embed at once."""
        return self._engine.batch

    def embed(
        self, texts: Sequence[str], side: Side, dimensions: int | None = None
    ) -> list[Embedding]:
        """The embedding of each text. New ones are stored before this returns.

        dimensions: the required length of vectors; None: any, but all the same. Cached ones of
        another length are computed again. If the model gives another length, raises
        `UnexpectedLength` and stores nothing.
        """
        keys = [
            blake3(msgspec.json.encode(["embedding", self._identities[side], side, text])).digest()
            for text in texts
        ]
        embeddings = self._cached_embeddings(keys, dimensions)
        lengths = {embedding.dimensions for embedding in embeddings.values()}
        if len(lengths) > 1:  # only the model can say which of them are outdated
            embeddings, lengths = {}, set()
        if dimensions is None and lengths:
            (dimensions,) = lengths
        missing = {
            key: text for key, text in zip(keys, texts, strict=True) if key not in embeddings
        }
        computed_before = self.computed
        compute = self._compute if self._records is None else self._compute_shared
        embeddings |= compute(missing, side, dimensions)
        self.cached += len(texts) - (self.computed - computed_before)
        return [embeddings[key] for key in keys]

    def _compute(
        self, texts: Mapping[bytes, str], side: Side, dimensions: int | None
    ) -> dict[bytes, Embedding]:
        """Compute embeddings, and store them if they have the right length."""
        if not texts:
            return {}
        keys = [*texts]
        try:
            embeddings = dict(zip(keys, self._engine.embed([*texts.values()], side), strict=True))
        except Interrupted as error:
            finished = {keys[number]: embedding for number, embedding in error.embeddings.items()}
            if _lengths(finished) <= {dimensions} or (dimensions is None and _is_even(finished)):
                self._store(finished)
            raise error.reason from None
        if not _is_even(embeddings):
            raise StepError(
                "the embedding model gives vectors of different lengths: "
                f"{', '.join(map(str, sorted({e.dimensions for e in embeddings.values()})))}",
                fix="check which model the server runs; nothing of this answer was stored",
            )
        length = embeddings[keys[0]].dimensions
        if dimensions is not None and length != dimensions:
            raise UnexpectedLength(length)
        self._store(embeddings)
        return embeddings

    def _store(self, embeddings: Mapping[bytes, Embedding]) -> None:
        self.computed += len(embeddings)
        if self._records is not None and embeddings:
            self._records.put(
                {
                    key: (bytes([embedding.was_cut]) + embedding.vector)
                    for key, embedding in embeddings.items()
                }
            )

    def _compute_shared(
        self, texts: Mapping[bytes, str], side: Side, dimensions: int | None
    ) -> dict[bytes, Embedding]:
        """Compute and store embeddings, and wait for those that another process computes."""
        assert self._records is not None
        outdated = self._records.get([*texts])
        embeddings = dict[bytes, Embedding]()
        while waiting := [key for key in texts if key not in embeddings]:
            claimed = [key for key in waiting if self._records.claim(key)]
            try:  # another process may have stored some meanwhile
                stored = self._records.get(waiting)
                fresh = [key for key in waiting if stored.get(key) != outdated.get(key)]
                embeddings |= self._cached_embeddings(fresh, dimensions)
                if dimensions is None and embeddings:
                    dimensions = next(iter(embeddings.values())).dimensions
                claimed_texts = {key: texts[key] for key in claimed if key not in embeddings}
                embeddings |= self._compute(claimed_texts, side, dimensions)
            finally:
                for key in claimed:
                    self._records.release(key)
            if not claimed:
                time.sleep(RECHECK_SECONDS)
        return embeddings

    def _cached_embeddings(
        self, keys: Sequence[bytes], dimensions: int | None
    ) -> dict[bytes, Embedding]:
        """The cached embeddings of this length; None: of any."""
        if self._records is None:
            return {}
        records = self._records.get(list(dict.fromkeys(keys)))
        embeddings = {
            key: Embedding(record[1:], bool(record[0]))
            for key, record in records.items()
            if len(record) > 1 and len(record) % FLOAT_BYTES == 1  # a damaged one is missing
        }
        return {k: e for k, e in embeddings.items() if dimensions in (None, e.dimensions)}


def _lengths(embeddings: Mapping[bytes, Embedding]) -> set[int | None]:
    return {embedding.dimensions for embedding in embeddings.values()}


def _is_even(embeddings: Mapping[bytes, Embedding]) -> bool:
    return len(_lengths(embeddings)) <= 1


def _identity(model: Model, engine: Embedder, side: Side) -> str:
    """The model in the keys of embeddings: its content, and what computes them.

    Without the prefix of the other side, so that changing one embeds only the texts it precedes.
    """
    versions = {name: version(name) for name in engine.packages}
    # Not the model's digest, which has all prefixes.
    files = model.manifest.files.items() if model.manifest else ()
    facts = [
        _facts_for_side(model.meta, side),
        sorted((name, digest) for name, (digest, _) in files),
        sorted((role, ref.digest) for role, ref in model.refs.items()),
        engine.version,
        versions,
    ]
    return blake3(msgspec.json.encode(facts, order="deterministic")).hexdigest()


def _facts_for_side(meta: Mapping[str, Any], side: Side) -> dict[str, Any]:
    """Facts about a model without the prefixes of other sides."""
    other_prefixes = {f"{other_side}_prefix" for other_side in SIDES if other_side != side}
    return {
        name: _facts_for_side(value, side) if name == "embedding" else value
        for name, value in meta.items()
        if name not in other_prefixes
    }
