"""Answers that quote and cite: `The limit is 50 MB. "Files up to 50 MB are read" [2]`.

In go a question with its answer and quote, and the chunks of its prompt. Out comes the answer with
citations, or the reason why it can't have any.
"""

from collections.abc import Sequence
from typing import Literal

from finery_retrieve.citations import (
    Citation,
    check_citations,
    citations,
    is_verbatim,
    quotable,
    without_citations,
)
from finery_retrieve.index.control import plain
from finery_retrieve.index.retriever import Hit
from finery_retrieve.questions import Question

Cite = Literal["quotes", "numbers", "none"]


class Uncitable(Exception):
    """An answer that can't be cited. reason: a short name to count by."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def cited_answer(question: Question, hits: Sequence[Hit], right: Sequence[Hit], cite: Cite) -> str:
    """The question's answer with the numbers of its right chunks, and with its quote if asked.

    hits: the chunks of the prompt, in its order. right: those with the answer. Citations that the
    answer already has are replaced, since they number other chunks. Raises `Uncitable` where the
    quote isn't in a right chunk word for word.
    """
    answer = without_citations(question.answer) if citations(question.answer) else question.answer
    if cite == "none":
        return answer
    texts = [plain(hit.text) for hit in hits]
    ids = {hit.id for hit in right}
    numbers = [number for number, hit in enumerate(hits, 1) if hit.id in ids]
    quote = quotable_in(question) if cite == "quotes" else None
    if quote is not None:
        first = _number_of(quote, numbers, texts)
        numbers = [first, *(number for number in numbers if number != first)]
    written = [f'"{quote}"'] if quote is not None else []
    cited = " ".join([answer, *written, *(f"[{number}]" for number in numbers)])
    read = citations(cited)
    if quote is None:  # the answer may end with words of the chunk in quotation marks
        read = [Citation(citation.number) for citation in read]
    if (
        read != [Citation(number, quote) for number in numbers]
        or check_citations(cited, texts).faults
    ):
        raise Uncitable("citation", "the answer's own quotation marks or code hide the citation")
    return cited


def quotable_in(question: Question) -> str | None:
    """The question's quote as an answer can have it; None if it has none that is usable."""
    return quotable(plain(question.quote)) if question.quote else None


def _number_of(quote: str, numbers: Sequence[int], texts: Sequence[str]) -> int:
    for number in numbers:
        if is_verbatim(quote, texts[number - 1]):
            return number
    raise Uncitable("altered-quote", f'no right chunk has the quote word for word: "{quote}"')
