"""Texts as words: lower case, without stop words, stemmed."""

import logging
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, get_args

from finery import Settings, UsageError, setting
from finery_retrieve.index.tokens import split

Language = Literal[
    "none", "danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese",
    "russian", "spanish", "swedish", "turkish",
]  # fmt: skip
LANGUAGES: tuple[str, ...] = get_args(Language)


class Bm25(Settings):
    """How BM25 scores words, in the implementation of bm25s (Lù 2024, arXiv:2407.03618)."""

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
    """Splits texts into the words that BM25 compares: see `finery_retrieve.index.tokens`.

    Words have at least two letters or digits, as in bm25s and scikit-learn.
    """

    def __init__(self, language: str) -> None:
        self._language = language

    def of(self, text: str) -> list[str]:
        """The stems of a text's words, in order, with repetitions."""
        words = self.split(text)
        stems = dict(zip(words, self.stems(words), strict=True))
        return [stem for word in words if (stem := stems[word]) is not None]

    def split(self, text: str) -> list[str]:
        """The words of a text, normalised and in lower case."""
        return split(text)

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
    """The library. `UsageError` with what to install where it is missing."""
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
