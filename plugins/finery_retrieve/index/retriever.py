"""Searches an index."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from finery import DataError, EngineJob, Index
from finery_retrieve.index.chunks import Chunk, Chunks
from finery_retrieve.index.lexical import FOLDER, Lexical
from finery_retrieve.index.ranking import POOL, Ranking, best, fused

if TYPE_CHECKING:
    pass

FORMAT = "retrieve"
"""`meta["format"]` of an index that this module can search."""


class Hit(msgspec.Struct, frozen=True):
    """A chunk that was found.

    score: BM25's, the cosine, or that of reciprocal rank fusion; 0 if it wasn't searched for.
    place: `{"line": 12}` or `{"page": 3}`.
    """

    id: str
    text: str
    source: str
    heading: str
    score: float
    place: dict[str, int]


class Retriever:
    """Finds the chunks of an index that fit questions best."""

    def __init__(self, index: Index, job: EngineJob) -> None:
        self._method = index.meta["method"]
        self._chunks = Chunks(index.path)
        self._lexical: Lexical | None = None
        if self._method in ("bm25", "hybrid"):
            self._lexical = Lexical(index.path / FOLDER, index.meta["bm25"]["language"])

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
        What is found for a question doesn't depend on the other questions.
        """
        return [self._hits(question, k) for question in questions]

    def chunk(self, id: str) -> Hit | None:
        """The chunk with this id; None if the index has none such."""
        number = self._chunks.number(id)
        return None if number is None else _hit(self._chunks[number], 0.0)

    def _hits(self, question: str, k: int) -> list[Hit]:
        return [_hit(self._chunks[number], score) for number, score in self._ranking(question, k)]

    def _ranking(self, question: str, k: int) -> Ranking:
        if self._method != "hybrid":
            return self._by_words(question, k)
        return fused([self._by_words(question, max(k, POOL))], k)

    def _by_words(self, question: str, k: int) -> Ranking:
        assert self._lexical is not None
        scores, least = self._lexical.scores(question)
        return best(scores, k, least=least)


def _hit(chunk: Chunk, score: float) -> Hit:
    return Hit(chunk.id, chunk.text, chunk.source, chunk.heading, score, chunk.place)
