"""Explains why questions have no right chunk in an index.

Input: questions, their right chunks and the index. Output: a reason with a fix for each question
that has none, such as a quote in another case, or one of another document.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from finery import Index
from finery.rows.badrow import BadRow
from finery_retrieve.citations import LEAST, is_verbatim, letters
from finery_retrieve.expected import one_line
from finery_retrieve.index.chunks import Chunk, Chunks
from finery_retrieve.index.retriever import Hit
from finery_retrieve.questions import Question, is_source

LONGEST = 70
"""Characters of a question that a message repeats."""
KEEP = "keep: [quote, source, expected, answerable]"
_STRAIGHT = str.maketrans("‘’“”–—", "''\"\"--")


class _Near(NamedTuple):
    """A chunk that nearly has a quote: word for word, apart from case, or apart from marks too."""

    source: str
    is_verbatim: bool
    is_same_case: bool
    is_own: bool


def no_chunks(
    questions: Sequence[Question], right: Sequence[Sequence[Hit]], index: Index
) -> dict[int, BadRow]:
    """Number of an answerable question without a right chunk → why it has none."""
    numbers = [
        number
        for number, (question, of) in enumerate(zip(questions, right, strict=True))
        if question.is_answerable and not of
    ]
    return reasons(questions, numbers, index)


def reasons(
    questions: Sequence[Question], numbers: Sequence[int], index: Index
) -> dict[int, BadRow]:
    """Number of a question → why it has no right chunk. numbers: of those that have none."""
    quoted = {number: questions[number] for number in numbers if questions[number].quote}
    near = _nearest(quoted, Chunks(index.path)) if quoted else {}
    return {
        number: _quote(questions[number], near.get(number))
        if questions[number].quote
        else _unnamed(questions[number])
        for number in numbers
    }


def _unnamed(question: Question) -> BadRow:
    about = _about(question)
    if question.chunks:
        return BadRow(
            f"the index has none of the chunks that the row was made from, and the row has no "
            f"quote: {about}",
            "index the same chunks that the questions were made from",
        )
    return BadRow(
        f"the row doesn't name the chunk with its answer: {about}",
        "give it `quote`, a sentence of the document, or `chunk`, the id of a chunk; or "
        "`answerable: false` if the documents don't contain the answer. If the file has these "
        f"columns, keep them in data.file: {KEEP}, without those that the file lacks",
    )


def _quote(question: Question, near: _Near | None) -> BadRow:
    quote, about = question.quote, _about(question)
    if letters(quote) < LEAST:
        return BadRow(
            f'the quote "{quote}" is too short, it needs at least {LEAST} letters or digits: '
            f"{about}",
            "quote more of the sentence, word for word",
        )
    if near is None:
        return BadRow(
            f'no chunk of the index contains the quote "{quote}": {about}',
            "index the documents that the question was made from, or correct the quote: a part of "
            "one chunk, word for word",
        )
    if near.is_verbatim:
        return BadRow(
            f"`source` is {question.source}, but the quote is in {near.source}: {about}",
            "correct `source`, or remove it to search all documents",
        )
    how = "another kind of apostrophe, quotation mark or dash"
    if not near.is_same_case:
        how = "other upper and lower case"
    place = f" of {near.source}" if near.source else ""
    return BadRow(
        f'a chunk{place} has the quote with {how}: "{quote}": {about}',
        "copy the quote from the document",
    )


def _nearest(questions: Mapping[int, Question], chunks: Iterable[Chunk]) -> dict[int, _Near]:
    """Number of a question → the first of the chunks that are most similar to its quote."""
    folded = {number: _folded(question.quote) for number, question in questions.items()}
    nearest: dict[int, _Near] = {}
    for chunk in chunks:
        text = _folded(chunk.text)
        for number, quote in folded.items():
            if quote and quote in text:
                near = _compared(questions[number], chunk)
                before = nearest.get(number)
                if before is None or _rank(near) > _rank(before):
                    nearest[number] = near
    return nearest


def _compared(question: Question, chunk: Chunk) -> _Near:
    quote, text = (_spaced(of.translate(_STRAIGHT)) for of in (question.quote, chunk.text))
    return _Near(
        source=chunk.source,
        is_verbatim=is_verbatim(question.quote, chunk.text),
        is_same_case=quote in text,
        is_own=is_source(question.source, chunk.source),
    )


def _rank(near: _Near) -> tuple[bool, bool, bool]:
    return near.is_own, near.is_verbatim, near.is_same_case


def _about(question: Question) -> str:
    """The question as one line."""
    line = _spaced(question.text)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _folded(text: str) -> str:
    return one_line(text.translate(_STRAIGHT))


def _spaced(text: str) -> str:
    return " ".join(text.split())
