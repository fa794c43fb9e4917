"""Search by meaning: the cosine of embeddings, exactly."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery import DataError, EngineJob, Index, Job, Model, StepError
from finery_retrieve.embed.cached import CachedEmbedder, UnexpectedLength
from finery_retrieve.embed.engines import Embedding, Reranker
from finery_retrieve.index.chunks import FORMAT, Chunk, Chunks
from finery_retrieve.index.words import FOLDER, Lexical

if TYPE_CHECKING:
    import numpy as np

EMBEDDINGS_FILE = "embeddings.npy"
"""float32, shape (chunks, dimensions), each of length 1."""
DIGITS = 6


class EmbeddingSummary(NamedTuple):
    """The result of embedding the chunks.

    dimensions: of the array. whole: of the model's embeddings. cut: number of chunks that were
    truncated.
    """

    dimensions: int
    whole: int
    cut: int


def write_embeddings(
    folder: Path, embedder: CachedEmbedder, job: Job, size: int | None = None
) -> EmbeddingSummary:
    """Embed the chunks in `folder`, in their order, and write the array next to them.

    size: how many of the first numbers of each embedding to keep; None: all.

    Holds one batch in memory. Cached embeddings may come from a model that the server no longer
    runs. If the model gives vectors of another length, all of them are computed again.
    """
    try:
        return _written(folder, embedder, job, None, size)
    except UnexpectedLength as error:
        length = error.dimensions
        job.log(f"the embedding model now gives vectors of length {length}: embedding all chunks")
    try:
        return _written(folder, embedder, job, length, size)
    except UnexpectedLength as error:
        raise StepError(
            "the embedding model gives vectors of different lengths: "
            f"{length}, then {error.dimensions}",
            fix="check which model the server runs",
        ) from error


def _written(
    folder: Path, embedder: CachedEmbedder, job: Job, dimensions: int | None, size: int | None
) -> EmbeddingSummary:
    from numpy.lib.format import open_memmap

    chunks = Chunks(folder)
    array: Any = None
    cut, done = 0, 0
    stream = iter(chunks)
    while batch := list(islice(stream, embedder.batch)):
        texts = [chunk.searched for chunk in batch]
        embeddings = embedder.embed(texts, "document", dimensions)
        dimensions = embeddings[0].dimensions
        vectors = _vectors(embeddings, size)
        if array is None:
            shape = (len(chunks), vectors.shape[1])
            array = open_memmap(folder / EMBEDDINGS_FILE, mode="w+", dtype="<f4", shape=shape)
        array[done : done + len(batch)] = vectors
        done += len(batch)
        cut += sum(embedding.was_cut for embedding in embeddings)
        job.progress(done, len(chunks), f"embedding: {embedder.computed:,} new")
    array.flush()
    return EmbeddingSummary(int(array.shape[1]), dimensions or 0, cut)


class Vectors:
    """Compares questions with the embeddings of an index.

    full_size: length of the model's embeddings, of which the index may have only the first numbers.
    """

    def __init__(
        self, folder: Path, embedder: CachedEmbedder, full_size: int | None = None
    ) -> None:
        import numpy as np

        self._array = np.load(folder / EMBEDDINGS_FILE, mmap_mode="r")
        self._size = int(self._array.shape[1])
        self._full_size = self._size if full_size is None else full_size
        self._embedder = embedder

    def embed(self, questions: Sequence[str]) -> "np.ndarray":
        """The embeddings of questions, shape (questions, dimensions)."""
        size, dimensions = self._embedder.batch, self._full_size
        batches = [questions[start : start + size] for start in range(0, len(questions), size)]
        try:
            embeddings = [
                embedding
                for batch in batches
                for embedding in self._embedder.embed(batch, "question", dimensions)
            ]
        except UnexpectedLength as error:
            raise StepError(
                f"the embeddings in the index have the length {dimensions}, those of the questions "
                f"{error.dimensions}: the server runs another model now",
                fix="start the server with the former model, or change `revision` in the step of "
                "the embedding model to embed the chunks again",
            ) from error
        return _vectors(embeddings, self._size)

    def scores(self, question: "np.ndarray") -> "np.ndarray":
        """The cosine of each chunk and an embedded question, shape (chunks,).

        Rounded to six digits: further ones depend on the order of additions, which differs between
        machines, and must not decide which of two chunks comes first.
        """
        import numpy as np

        cosines: np.ndarray = (self._array @ question).astype(np.float64)
        return cosines.round(DIGITS)


def _vectors(embeddings: Sequence[Embedding], size: int | None) -> "np.ndarray":
    """The first `size` numbers of each vector, again of length 1, as an array."""
    import numpy as np

    buffer = b"".join(embedding.vector for embedding in embeddings)
    vectors = np.frombuffer(buffer, dtype="<f4").reshape(len(embeddings), -1)
    if size is None or size >= vectors.shape[1]:
        return vectors
    truncated = vectors[:, :size].astype(np.float64)
    lengths = np.linalg.norm(truncated, axis=1, keepdims=True)
    scaled: np.ndarray = (truncated / np.maximum(lengths, 1e-12)).astype("<f4")
    return scaled


class Hit(msgspec.Struct, frozen=True):
    """A chunk that was found.

    score: BM25's, the cosine, that of reciprocal rank fusion, or the reranker's; 0 if it wasn't
    searched for.
    place: `{"line": 12}` or `{"page": 3}`. tokens: of its text as prompts contain it; None if the
    index counts none.
    """

    id: str
    text: str
    source: str
    heading: str
    score: float
    place: dict[str, int]
    tokens: int | None = None


def retrieved_column(hits: Iterable[Hit]) -> list[dict[str, Any]]:
    """The column `retrieved`: the chunks in a prompt, in its order."""
    return [
        {"id": hit.id, "source": hit.source, "heading": hit.heading, "score": hit.score}
        for hit in hits
    ]


CANDIDATE_POOL = 1_000
"""Best chunks of each ranking that are fused, as in Cormack et al."""
FUSION_CONSTANT = 60
"""The constant of reciprocal rank fusion."""
Ranking = list[tuple[int, float]]
"""(number of the chunk, score), best first."""


def top_scores(scores: "np.ndarray", count: int, threshold: float = -1e30) -> Ranking:
    """At most `count` numbers with a score above `least`, the best first; of equal ones the first.

    scores: shape (chunks,).
    """
    import numpy as np

    if count < len(scores):
        bound = np.partition(scores, len(scores) - count)[len(scores) - count]
        numbers = np.flatnonzero((scores >= bound) & (scores > threshold))
    else:
        numbers = np.flatnonzero(scores > threshold)
    order = np.argsort(-scores[numbers], kind="stable")[:count]
    return [(int(number), float(scores[number])) for number in numbers[order]]


def fuse_rankings(rankings: Sequence[Ranking], count: int) -> Ranking:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): Σ 1 / (60 + rank)."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (number, _) in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (FUSION_CONSTANT + rank)
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return ordered[:count]


class Retriever:
    """Finds the chunks of an index that fit questions best."""

    def __init__(self, index: Index, job: EngineJob) -> None:
        method, embedder = index.meta["method"], index.refs.get("embedder")
        self._chunks = Chunks(index.path)
        self._lexical: Lexical | None = None
        self._vectors: Vectors | None = None
        if method != "dense":
            self._lexical = Lexical(index.path / FOLDER, index.meta["bm25"]["language"])
        if isinstance(embedder, Model):
            full_size = index.meta.get("whole_dimensions")
            self._vectors = Vectors(index.path, CachedEmbedder(embedder, job), full_size)
        self._reranker: Reranker | None = None
        self._candidates = 0
        if isinstance(reranker := index.refs.get("reranker"), Model):
            self._reranker = Reranker.of(reranker, job)
            self._candidates = int(index.meta["candidates"])

    @classmethod
    def open(cls, index: Index, job: EngineJob) -> "Retriever":
        """The retriever of an index. The job provides the engine of its embedding model.

        Raises `DataError` for an index that another plugin wrote.
        """
        if index.meta.get("format") != FORMAT:
            raise DataError(
                f"an index of the format '{index.meta.get('format')}' can't be searched here",
                fix="use an index made by retrieve.index",
            )
        return cls(index, job)

    def search(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """At most `k` chunks for each question, the best first; of equal ones the first indexed.

        BM25 finds only chunks that share a word with the question, so there can be fewer or none.
        What is found for a question doesn't depend on the other questions, nor its order on `k`.
        """
        vectors = (
            [None] * len(questions) if self._vectors is None else self._embed_questions(questions)
        )
        depth = max(k, self._candidates)
        rankings = [
            self._rerank(question, self._ranking(question, vector, depth))[:k]
            for question, vector in zip(questions, vectors, strict=True)
        ]
        return [
            [_hit(self._chunks[number], score) for number, score in ranking] for ranking in rankings
        ]

    def chunk(self, id: str) -> Hit | None:
        """The chunk with this id; None if the index has none such."""
        number = self._chunks.number(id)
        return None if number is None else _hit(self._chunks[number], 0.0)

    def _embed_questions(self, questions: Sequence[str]) -> "list[np.ndarray | None]":
        """The embedding of each question; None for one without text, for which nothing is found."""
        assert self._vectors is not None
        nonempty = [question for question in questions if question.strip()]
        embedded = iter(self._vectors.embed(nonempty)) if nonempty else iter(())
        return [next(embedded) if question.strip() else None for question in questions]

    def _ranking(self, question: str, vector: "np.ndarray | None", k: int) -> Ranking:
        """The best chunks by words, by meaning, or by both."""
        is_hybrid = self._lexical is not None and self._vectors is not None
        pool = max(k, CANDIDATE_POOL) if is_hybrid else k
        rankings: list[Ranking] = []
        if self._lexical is not None:
            scores, threshold = self._lexical.scores(question)
            rankings.append(top_scores(scores, pool, threshold=threshold))
        if self._vectors is not None:
            cosines = None if vector is None else self._vectors.scores(vector)
            rankings.append([] if cosines is None else top_scores(cosines, pool))
        return fuse_rankings(rankings, k) if is_hybrid else rankings[0]

    def _rerank(self, question: str, ranking: Ranking) -> Ranking:
        """The candidates in the order of the reranker, if there is one, before the other chunks."""
        if self._reranker is None:
            return ranking
        numbers = [number for number, _ in ranking[: self._candidates]]
        texts = [self._chunks[number].searched for number in numbers]
        scored = zip(numbers, self._reranker.scores(question, texts), strict=True)
        return [*sorted(scored, key=lambda item: -item[1]), *ranking[self._candidates :]]


def _hit(chunk: Chunk, score: float) -> Hit:
    return Hit(chunk.id, chunk.text, chunk.source, chunk.heading, score, chunk.place, chunk.tokens)
