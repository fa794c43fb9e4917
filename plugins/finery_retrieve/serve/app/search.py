"""Searches the index of a bundle, as `finery_retrieve.index.retriever` does inside finery."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery_retrieve.index.ranking import POOL, Ranking, best, fused
from finery_retrieve.index.tokens import split
from finery_retrieve.serve.app.embed import Embedder

CHUNKS, OFFSETS, WORDS, VECTORS = "chunks.jsonl", "offsets.npy", "bm25", "embeddings.npy"
FILES = (CHUNKS, OFFSETS, WORDS, VECTORS)
"""What the search needs of an index."""
DIGITS = 6
"""Digits of a cosine that machines agree on."""


class Searcher:
    """Finds the chunks of an index that fit a question best.

    folder: the files of the index. facts: how it was made. embedder: its embedding model, if it has
    one. Raises `ImportError` if a package that it needs isn't installed.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any], embedder: Embedder | None) -> None:
        import numpy as np

        self._words: Words | None = None
        self._vectors: Vectors | None = None
        self._offsets = np.load(folder / OFFSETS, mmap_mode="r")
        self._lines = (folder / CHUNKS).open("rb")
        if facts["method"] != "dense":
            self._words = Words(folder / WORDS, facts["bm25"]["language"])
        if embedder is not None:
            self._vectors = Vectors(folder, embedder)

    def search(self, question: str, k: int) -> list[dict[str, Any]]:
        """At most `k` chunks with their scores, the best first."""
        return [{**self.chunk(number), "score": score} for number, score in self._best(question, k)]

    def chunk(self, number: int) -> dict[str, Any]:
        """A chunk by its number. May be called from several threads."""
        start, stop = int(self._offsets[number]), int(self._offsets[number + 1])
        chunk = json.loads(os.pread(self._lines.fileno(), stop - start, start))
        return {"source": "", "heading": "", "place": {}, **chunk}

    def _best(self, question: str, k: int) -> Ranking:
        rankings = [ranking for ranking in (self._words, self._vectors) if ranking is not None]
        if len(rankings) == 1:
            return rankings[0].best(question, k)
        return fused([ranking.best(question, max(k, POOL)) for ranking in rankings], k)


class Words:
    """Finds chunks by words, with the scores of BM25."""

    def __init__(self, folder: Path, language: str) -> None:
        import bm25s

        self._scores: Any = bm25s.BM25.load(folder, mmap=True, show_progress=False, verbosity=0)
        self._stop_words: frozenset[str] = frozenset()
        self._stem: Any = str
        if language != "none":
            from Stemmer import Stemmer

            self._stop_words = frozenset(bm25s.tokenization._infer_stopwords(language))
            self._language, self._stem = language, Stemmer(language).stemWord

    def best(self, question: str, count: int) -> Ranking:
        """The chunks that share words with the question."""
        words = [w for w in split(question) if w not in self._stop_words]
        known = self._scores.get_tokens_ids([self._stem(word) for word in words])
        absent = self._scores.nonoccurrence_array
        least = 0.0 if absent is None else float(absent[known].sum())
        return best(self._scores.get_scores_from_ids(known), count, least=least)


class Vectors:
    """Finds chunks by the cosine of embeddings."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        import numpy as np

        self._array = np.load(folder / VECTORS, mmap_mode="r")
        self._embedder = embedder

    def best(self, question: str, count: int) -> Ranking:
        """The chunks with the most similar embeddings; none for a question without text."""
        import numpy as np

        if not question.strip():
            return []
        cosines = (self._array @ self._embedder.embed(question)).astype(np.float64)
        return best(np.round(cosines, DIGITS), count)
