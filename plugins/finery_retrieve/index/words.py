"""Search by words: BM25 scores of the stems of words, computed ahead by bm25s.

Input: the texts of chunks, then questions. Output: the scores of all chunks for a question.
"""

import logging
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from finery import Settings, UsageError, setting

if TYPE_CHECKING:
    import numpy as np


_ASCII = re.compile(r"\w\w+")
_INVISIBLE = {ord(character): None for character in "\u00ad\u200c\u200d\u2060\ufeff"}
"""Soft hyphens, joiners and byte order marks: they are inside words, and nobody types them."""
_BLOCKS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF),  # Thai, Lao, Burmese, Khmer
    (0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF),  # Hangul
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D),
    (0x2E80, 0x2FDF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),  # the last five: Han
)  # fmt: skip
"""Scripts without spaces between words, and Hangul, whose words end in particles."""


def split(text: str) -> list[str]:
    """The words of a text in lower case, each of at least two letters or digits.

    Text is normalised first (NFKC: composed accents, no ligatures, no full-width letters). In
    scripts without spaces between words, and in Hangul, each pair of neighbouring characters is a
    word, and so is a single character on its own: as in the CJKAnalyzer of Lucene.
    """
    text = normal(text)
    if text.isascii():
        return _ASCII.findall(text)
    word, character = _patterns()
    return [
        part
        for match in word.finditer(text)
        for part in (_pairs(character.findall(match[0])) if match["unspaced"] else (match[0],))
    ]


def normal(text: str) -> str:
    """The text that is split into words: in NFKC and in lower case, without soft hyphens."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE))
    return text.lower()


def is_unspaced(character: str) -> bool:
    """Whether words begin and end at any of these characters."""
    return any(first <= ord(character) <= last for first, last in _BLOCKS)


def _pairs(characters: list[str]) -> Iterator[str]:
    if len(characters) == 1:
        yield characters[0]
    for first, second in pairwise(characters):
        yield first + second


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(a word, or characters without spaces between them; one of these characters)."""
    unspaced = _class(_BLOCKS)
    codes = range(0x300, 0x1F000)
    marks = _class((c, c) for c in codes if unicodedata.category(chr(c))[0] == "M")
    character = rf"(?=\w)[{unspaced}][{marks}]*"
    letter = rf"[^\W{unspaced}]"
    word = rf"(?P<unspaced>(?:{character})+)|{letter}(?:{letter}|[{marks}])+"
    return re.compile(word), re.compile(character)


def _class(ranges: Iterable[tuple[int, int]]) -> str:
    """The inside of a character class."""
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


Language = Literal[
    "none", "danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese",
    "russian", "spanish", "swedish", "turkish",
]  # fmt: skip


class Bm25(Settings):
    """The formula with which BM25 scores words, as in bm25s (Lù 2024, arXiv:2407.03618)."""

    method: Literal["lucene", "robertson", "atire", "bm25l", "bm25+"] = setting(
        "lucene", help="Variant of the formula, as in Kamphuis et al. 2020."
    )
    k1: float = setting(
        1.5, ge=0.0, help="How much repeated occurrences of a word in a chunk count."
    )
    b: float = setting(
        0.75, ge=0.0, le=1.0, help="How much long chunks are penalised; 0 disables this."
    )
    delta: float = setting(
        0.5, ge=0.0, help="Minimum weight of a word that occurs, for bm25l and bm25+."
    )
    language: Language = setting(
        "english",
        help="Language of the documents: its stop words are ignored, and words are reduced to "
        "their stems (Snowball). none: all words as they are.",
    )


class Words:
    """Turns words into what BM25 compares: their stems, without stop words."""

    def __init__(self, language: str) -> None:
        self._language = language

    def of(self, text: str) -> list[str]:
        """The stems of a text's words, in order, with repetitions."""
        words = split(text)
        stems = dict(zip(words, self.stems(words), strict=True))
        return [stem for word in words if (stem := stems[word]) is not None]

    def stems(self, words: Sequence[str]) -> list[str | None]:
        """The stem of each word; None for a stop word."""
        if self._language == "none":
            return [*words]
        stems = self._stemmer.stemWords(words)
        stop = self._stop_words
        return [None if word in stop else stem for word, stem in zip(words, stems, strict=True)]

    @cached_property
    def _stop_words(self) -> frozenset[str]:
        return frozenset(bm25s().tokenization._infer_stopwords(self._language))

    @cached_property
    def _stemmer(self) -> Any:
        try:
            from Stemmer import Stemmer
        except ImportError as error:
            raise missing("PyStemmer") from error
        return Stemmer(self._language)


def bm25s() -> Any:
    """The library. `UsageError` with the package to install if it is missing."""
    try:
        import bm25s
    except ImportError as error:
        raise missing("bm25s") from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets its own level to DEBUG
    return bm25s


def missing(package: str) -> UsageError:
    """The error for a package that isn't installed."""
    return UsageError(
        f"searching by words needs the package {package}, which isn't installed",
        fix="pip install 'finery[retrieve]'",
    )


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
        """Whether no text contains a word."""
        return not self._vocabulary

    def add(self, text: str) -> None:
        """Take the text of the next chunk."""
        words, columns = split(text), self._columns
        new = sorted(set(words).difference(columns))
        for word, stem in zip(new, self._words.stems(new), strict=True):
            column = len(self._vocabulary)
            columns[word] = NO_COLUMN if stem is None else self._vocabulary.setdefault(stem, column)
        ids = array("i", [column for word in words if (column := columns[word]) != NO_COLUMN])
        self._ids.append(ids)
        self.without_words += not ids

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
