"""Judges one answer: its content, its citations and quotes, and whether it abstains.

Input: an answer and its prompt. Output: a verdict, with the faults in words.
"""

from typing import NamedTuple

from finery_retrieve.citations import Checked, check_citations
from finery_retrieve.evaluate.grounded.contexts import Asked
from finery_retrieve.evaluate.grounded.scores import abstains, has_expected, token_f1
from finery_retrieve.index.control import plain


class Verdict(NamedTuple):
    """The verdict on an answer.

    answer: from 0 to 1; None if no answer is expected. cited: whether it cites the chunk with the
    answer, and only numbers that the prompt has. quoted: whether it quotes, and each quote is in a
    chunk that it cites. Both are None if the context doesn't contain the answer.
    """

    answer: float | None
    has_abstained: bool
    cited: bool | None
    quoted: bool | None
    is_correct: bool
    citations: Checked
    faults: list[str]


def verdict_on(asked: Asked, answer: str, unknown: str, passing: float) -> Verdict:
    """The verdict on an answer. passing: the score from which it counts as correct."""
    has_abstained = abstains(answer, unknown)
    checked = check_citations(answer, [plain(hit.text) for hit in asked.hits])
    score = _score(asked, answer) if asked.expects_answer else None
    if has_abstained and score is not None:
        score = 0.0
    is_correct = has_abstained if score is None else score >= passing
    cited = quoted = None
    if asked.expects_answer and asked.has_answer:
        right = {n for n, hit in enumerate(asked.hits, 1) if asked.question.is_answered_by(hit)}
        cited = not checked.unknown and bool(right & set(checked.cited))
        quoted = checked.quotes > 0 and not checked.unknown and not checked.altered
    faults = [*_faults(asked, score, passing, has_abstained=has_abstained), *checked.faults]
    return Verdict(score, has_abstained, cited, quoted, is_correct, checked, faults)


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
