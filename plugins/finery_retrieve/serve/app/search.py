"""Searches the index of a bundle, as `finery_retrieve.index.retriever` does inside finery."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from finery_retrieve.index.ranking import POOL, Ranking, best, fused

CHUNKS, OFFSETS, WORDS = "chunks.jsonl", "offsets.npy", "bm25"
_WORD = re.compile(r"\b\w\w+\b")


class Searcher:
    """Finds the chunks of an index that fit a question best.

    folder: the files of the index. facts: how it was made. Raises `ImportError` if a package that
    it needs isn't installed.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self._method = facts["method"]
        self._offsets = np.load(folder / OFFSETS, mmap_mode="r")
        self._lines = (folder / CHUNKS).open("rb")
        if self._method != "dense":
            self._words = Words(folder / WORDS, facts["bm25"]["language"])

    def search(self, question: str, k: int) -> list[dict[str, Any]]:
        """At most `k` chunks with their scores, the best first."""
        return [{**self.chunk(number), "score": score} for number, score in self._best(question, k)]

    def chunk(self, number: int) -> dict[str, Any]:
        """A chunk by its number. May be called from several threads."""
        start, stop = int(self._offsets[number]), int(self._offsets[number + 1])
        chunk = json.loads(os.pread(self._lines.fileno(), stop - start, start))
        return {"source": "", "heading": "", "place": {}, **chunk}

    def _best(self, question: str, k: int) -> Ranking:
        if self._method == "bm25":
            return self._words.best(question, k)
        return fused([self._words.best(question, max(k, POOL))], k)


class Words:
    """Finds chunks by words, with the scores of BM25."""

    def __init__(self, folder: Path, language: str) -> None:
        self._scores: Any = bm25s.BM25.load(folder, mmap=True, show_progress=False, verbosity=0)
        self._stop_words: frozenset[str] = frozenset()
        self._stem: Any = str
        if language != "none":
            from Stemmer import Stemmer

            self._stop_words = frozenset(bm25s.tokenization._infer_stopwords(language))
            self._language, self._stem = language, Stemmer(language).stemWord

    def best(self, question: str, count: int) -> Ranking:
        """The chunks that share words with the question."""
        words = [w for w in _WORD.findall(question.lower()) if w not in self._stop_words]
        known = self._scores.get_tokens_ids([self._stem(word) for word in words])
        absent = self._scores.nonoccurrence_array
        least = 0.0 if absent is None else float(absent[known].sum())
        return best(self._scores.get_scores_from_ids(known), count, least=least)
