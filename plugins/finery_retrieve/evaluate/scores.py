"""How good an answer is without a judge: strings that it must contain, else the overlap of words.

In go an answer and what its row expects, out comes a score from 0 to 1.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

from finery_retrieve.citations import citations, without_citations, without_numbers

Expected = Sequence[str | Sequence[str]]
"""What an answer must contain: texts, each of which may be a list of alternatives."""
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


def contains(answer: str, expected: Expected) -> bool:
    """Whether an answer contains all that is expected, as whole words and numbers.

    Case and whitespace don't count: `50 MB` is in `50  mb`, but not in `150 MB` or `50 MBit`.
    """
    text = _plain(without_numbers(answer))
    return all(
        any(_has(text, _plain(one)) for one in ([each] if isinstance(each, str) else each))
        for each in expected
    )


def abstains(answer: str, unknown: str) -> bool:
    """Whether an answer says that the documents don't say: it contains `unknown` and cites nothing.

    Case, whitespace and the kind of apostrophe don't count, nor does the last punctuation mark.
    """
    sentence = _plain(unknown).rstrip(".!。")
    return sentence in _plain(answer) and not citations(answer)


def _tokens(text: str) -> list[str]:
    letters = "".join(c for c in _plain(text) if not _is_punctuation(c))
    return [word for word in _UNSPACED.sub(r" \1 ", letters).split() if word not in _ARTICLES]


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def _plain(text: str) -> str:
    """The text in one line, in one case, with straight apostrophes."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(text.split())


def _has(text: str, part: str) -> bool:
    before = r"(?<!\w)(?<!\d[.,])" if part[:1].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if part[-1:].isalnum() else ""
    return bool(part) and bool(re.search(before + re.escape(part) + after, text))
