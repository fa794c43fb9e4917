"""Search by words: BM25 scores, computed ahead by bm25s and read from disk."""

from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from finery_retrieve.index.words import Bm25, Words, bm25s

if TYPE_CHECKING:
    import numpy as np

FOLDER = "bm25"
NO_COLUMN = -1
VOCABULARY = "vocab.index.json"
"""The file of bm25s that maps words to columns."""


class LexicalWriter:
    """Takes the texts of chunks in order, and writes the index.

    Holds four bytes for each word of the texts, not the texts.
    """

    def __init__(self, settings: Bm25) -> None:
        self._settings = settings
        self._words = Words(settings.language)
        self._ids: list[array[int]] = []
        self._vocabulary: dict[str, int] = {}  # stem → column
        self._columns: dict[str, int] = {}  # word → column; NO_COLUMN: a stop word
        self.without_words = 0

    @property
    def is_empty(self) -> bool:
        """Whether no text has a word."""
        return not self._vocabulary

    def add(self, text: str) -> None:
        """Take the text of the next chunk."""
        words, columns = self._words.split(text), self._columns
        self._learn(sorted(set(words).difference(columns)))
        ids = array("i", [column for word in words if (column := columns[word]) != NO_COLUMN])
        self._ids.append(ids)
        self.without_words += not ids

    def _learn(self, words: list[str]) -> None:
        """Give each word a column, that of its stem."""
        vocabulary = self._vocabulary
        for word, stem in zip(words, self._words.stems(words), strict=True):
            column = NO_COLUMN if stem is None else vocabulary.setdefault(stem, len(vocabulary))
            self._columns[word] = column

    def write(self, folder: Path) -> None:
        """Compute all scores, and write the files of bm25s into `folder`."""
        settings = self._settings
        scores = bm25s().BM25(
            k1=settings.k1, b=settings.b, delta=settings.delta, method=settings.method
        )
        scores.index((self._ids, self._vocabulary), create_empty_token=False, show_progress=False)
        scores.save(folder, show_progress=False)
        # bm25s encodes with whichever JSON library is installed; the bytes must not depend on that.
        (folder / VOCABULARY).write_bytes(msgspec.json.encode(self._vocabulary))


class Lexical:
    """Reads an index of words."""

    def __init__(self, folder: Path, language: str) -> None:
        self._scores: Any = bm25s().BM25.load(folder, mmap=True, show_progress=False, verbosity=0)
        self._words = Words(language)

    def scores(self, question: str) -> "tuple[np.ndarray, float]":
        """bm25s's score of each chunk, shape (chunks,), and that of a chunk without any known word.

        The second is above 0 only for bm25l and bm25+.
        """
        known: list[int] = self._scores.get_tokens_ids(self._words.of(question))
        scores: np.ndarray = self._scores.get_scores_from_ids(known)
        absent = self._scores.nonoccurrence_array
        return scores, 0.0 if absent is None else float(absent[known].sum())
