"""Scores an answer without a judge: by strings that it must contain, or else by common words.

Input: an answer, and what its row expects. Output: a score from 0 to 1.
"""

import re
import string
import unicodedata
from collections import Counter

from finery_retrieve.citations import LEAST, citations, without_citations, without_numbers
from finery_retrieve.expected import Expected, contains, occurs, one_line

_ENDS = " .!。…"
_ARTICLES = {"a", "an", "the"}
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
"""Characters of Chinese and Japanese, which are written without spaces."""


def token_f1(answer: str, reference: str) -> float:
    """The F1 of the words that two texts share, without case, punctuation and English articles.

    Citations and the quotes before them don't count. 1 if both have no words.

    Source: P. Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text",
    EMNLP 2016, and its script. Characters of Chinese and Japanese count as words, as in P. Lewis et
    al., "MLQA: Evaluating Cross-lingual Extractive Question Answering", ACL 2020.
    """
    first, second = (Counter(_tokens(without_citations(text))) for text in (answer, reference))
    shared = (first & second).total()
    if not first or not second:
        return float(first == second)
    return 2 * shared / (first.total() + second.total())


def has_expected(answer: str, expected: Expected) -> bool:
    """Whether an answer, without the numbers of its citations, contains all expected texts."""
    return contains(without_numbers(answer), expected)


def abstains(answer: str, unknown: str) -> bool:
    """Whether an answer states that the documents don't have it: it has `unknown` and cites
    nothing.

    Case, whitespace, the kind of apostrophe and the last punctuation mark don't count. An `unknown`
    of fewer than `LEAST` letters, e.g. `No`, must be the complete answer.
    """
    sentence, line = one_line(unknown).strip(_ENDS), one_line(answer)
    if sum(map(str.isalnum, sentence)) < LEAST:
        return bool(sentence) and line.strip(_ENDS) == sentence
    return occurs(sentence, line) and not citations(answer)


def _tokens(text: str) -> list[str]:
    letters = "".join(c for c in one_line(text) if not _is_punctuation(c))
    return [word for word in _UNSPACED.sub(r" \1 ", letters).split() if word not in _ARTICLES]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character)[0] == "P"
