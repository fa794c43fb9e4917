"""Judges one answer without a model: its content, its citations and quotes, and if it abstains.

Input: an answer and its prompt. Output: a verdict, with the faults in words.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from finery_retrieve.citations import (
    LEAST,
    Checked,
    check_citations,
    citations,
    without_citations,
    without_numbers,
)
from finery_retrieve.evaluate.contexts import Asked
from finery_retrieve.expected import Expected, contains, occurs, one_line
from finery_retrieve.index.chunks import plain

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
    letters = "".join(
        c
        for c in one_line(text)
        if not (c in string.punctuation or unicodedata.category(c)[0] == "P")
    )
    return [word for word in _UNSPACED.sub(r" \1 ", letters).split() if word not in _ARTICLES]


class Verdict(NamedTuple):
    """The verdict on an answer.

    values: metric of its context → value; None if the metric doesn't apply. answer: from 0 to 1, if
    an answer is expected. cited: whether it cites the chunk with the answer, and only numbers that
    the prompt has. quoted: whether it quotes, and each quote is in a chunk that it cites. These and
    `answered` apply if the context contains the answer, `abstained` if no answer is expected.
    """

    values: Mapping[str, float | bool | None]
    is_correct: bool
    citations: Checked
    faults: list[str]


def verdict_on(asked: Asked, answer: str, unknown: str, passing: float) -> Verdict:
    """The verdict on an answer. passing: the score from which it counts as correct."""
    has_abstained = abstains(answer, unknown)
    checked = check_citations(answer, [plain(hit.text) for hit in asked.hits])
    score = None
    if asked.expects_answer:
        score = 0.0 if has_abstained else _score(asked, answer)
    is_correct = has_abstained if score is None else score >= passing
    cited = quoted = answered = None
    if asked.expects_answer and asked.has_answer:
        right = {n for n, hit in enumerate(asked.hits, 1) if asked.question.is_answered_by(hit)}
        cited = not checked.unknown and bool(right & set(checked.cited))
        quoted = checked.quotes > 0 and not checked.unknown and not checked.altered
        answered = not has_abstained
    abstained = None if asked.expects_answer else has_abstained
    values = {
        "answer": score, "cited": cited, "quoted": quoted, "answered": answered,
        "abstained": abstained,
    }  # fmt: skip
    faults = [*_faults(asked, score, passing, has_abstained=has_abstained), *checked.faults]
    return Verdict(values, is_correct, checked, faults)


def _score(asked: Asked, answer: str) -> float:
    question = asked.question
    if question.expected:
        return float(has_expected(answer, question.expected))
    return token_f1(answer, question.answer)


def _faults(asked: Asked, score: float | None, passing: float, *, has_abstained: bool) -> list[str]:
    if score is None:
        return [] if has_abstained else ["answers, but the documents don't contain the answer"]
    if has_abstained:
        where = "is in the context" if asked.has_answer else "isn't in the context"
        return [f"doesn't answer; the answer {where}"]
    if score >= passing:
        return []
    if asked.question.expected:
        return ["lacks an expected text"]
    return [f"shares few words with the expected answer: F1 {score:.2f}"]
