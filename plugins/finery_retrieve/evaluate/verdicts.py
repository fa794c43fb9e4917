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
    MIN_LETTERS,
    CheckedCitations,
    check_citations,
    citations,
    strip_citations,
    strip_numbers,
)
from finery_retrieve.evaluate.contexts import QuestionInContext
from finery_retrieve.expected import Expected, contains, occurs, one_line
from finery_retrieve.index.chunks import escape_control_tokens

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
    answer_words, reference_words = (
        Counter(_tokens(strip_citations(text))) for text in (answer, reference)
    )
    shared = (answer_words & reference_words).total()
    if not answer_words or not reference_words:
        return float(answer_words == reference_words)
    return 2 * shared / (answer_words.total() + reference_words.total())


def has_expected(answer: str, expected: Expected) -> bool:
    """Whether an answer, without the numbers of its citations, contains all expected texts."""
    return contains(strip_numbers(answer), expected)


def abstains(answer: str, unknown: str) -> bool:
    """Whether an answer states that the documents don't have it: it has `unknown` and cites
    nothing.

    Case, whitespace, the kind of apostrophe and the last punctuation mark don't count. An `unknown`
    of fewer than `MIN_LETTERS` letters, e.g. `No`, must be the complete answer.
    """
    sentence, line = one_line(unknown).strip(_ENDS), one_line(answer)
    if sum(map(str.isalnum, sentence)) < MIN_LETTERS:
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
    citations: CheckedCitations
    faults: list[str]


def verdict_on(prompt: QuestionInContext, answer: str, unknown: str, passing: float) -> Verdict:
    """The verdict on an answer. passing: the score from which it counts as correct."""
    has_abstained = abstains(answer, unknown)
    citations = check_citations(answer, [escape_control_tokens(hit.text) for hit in prompt.hits])
    score = None
    if prompt.expects_answer:
        score = 0.0 if has_abstained else _score(prompt, answer)
    is_correct = has_abstained if score is None else score >= passing
    cited = quoted = answered = None
    if prompt.expects_answer and prompt.has_answer:
        right = {n for n, hit in enumerate(prompt.hits, 1) if prompt.question.is_answered_by(hit)}
        cited = not citations.unknown and bool(right & set(citations.cited))
        quoted = citations.quotes > 0 and not citations.unknown and not citations.altered
        answered = not has_abstained
    abstained = None if prompt.expects_answer else has_abstained
    values = {
        "answer": score, "cited": cited, "quoted": quoted, "answered": answered,
        "abstained": abstained,
    }  # fmt: skip
    faults = [*_faults(prompt, score, passing, has_abstained=has_abstained), *citations.faults]
    return Verdict(values, is_correct, citations, faults)


def _score(prompt: QuestionInContext, answer: str) -> float:
    question = prompt.question
    if question.expected:
        return float(has_expected(answer, question.expected))
    return token_f1(answer, question.answer)


def _faults(
    prompt: QuestionInContext, score: float | None, passing: float, *, has_abstained: bool
) -> list[str]:
    if score is None:
        return [] if has_abstained else ["answers, but the documents don't contain the answer"]
    if has_abstained:
        where = "is in the context" if prompt.has_answer else "isn't in the context"
        return [f"doesn't answer; the answer {where}"]
    if score >= passing:
        return []
    if prompt.question.expected:
        return ["lacks an expected text"]
    return [f"shares few words with the expected answer: F1 {score:.2f}"]
