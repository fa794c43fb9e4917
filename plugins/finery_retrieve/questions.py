"""Questions whose right chunk is known: read from rows, and looked up in an index.

Input: rows with a question and the id of its chunk, or a quote from it. Output: questions with the
chunks that answer them, chunks that don't, and a reason with a fix for each question that has no
right chunk, such as a quote in another case, or one of another document.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Index
from finery.advanced import shortened
from finery.rows import Conversation, Row, answer_text, split_turns
from finery.rows.badrow import BadRow, kind_of
from finery_retrieve.citations import (
    MIN_LETTERS,
    Expected,
    contains,
    is_verbatim,
    letters,
    one_line,
    strip_numbers,
)
from finery_retrieve.index.chunks import Chunk, Chunks, escape_control_tokens
from finery_retrieve.index.context import question_of
from finery_retrieve.index.retriever import Hit, Retriever

MARGIN = 20
"""Chunks that are retrieved beyond those needed, since some of them contain the answer."""


class Question(NamedTuple):
    """A question of a row.

    prompt: all turns before the answer, without documents. text: the last user turn, which is what
    is searched for. answer: the row's own, empty if it has none. chunks: ids of the chunks that the
    question was made from. quote: a sentence of theirs that proves the answer, empty if unknown.
    is_answerable: False if the documents don't contain the answer.
    """

    row: Row
    prompt: Conversation
    text: str
    answer: str
    chunks: tuple[str, ...]
    quote: str
    source: str
    expected: Expected
    is_answerable: bool

    def may_be_answered_by(self, hit: Hit) -> bool:
        """Whether a chunk may contain the answer and so can't be a distractor.

        It is a right one, or contains all expected texts or the quote, in any document and any
        case. That proves nothing, since a short expected text is in many chunks.
        """
        if self.is_answered_by(hit):
            return True
        if self.expected and contains(hit.text, self.expected):
            return True
        return is_verbatim(one_line(self.quote), one_line(hit.text))

    def is_answered_by(self, hit: Hit) -> bool:
        """Whether a chunk is a right one: one that the row names, or one with its quote."""
        return hit.id in self.chunks or self.is_proved_by(hit)

    def lacks_expected(self) -> bool:
        """Whether the row's own answer lacks texts that it expects."""
        answer = strip_numbers(self.answer)
        return bool(self.answer and self.expected) and not contains(answer, self.expected)

    def is_proved_by(self, hit: Hit) -> bool:
        """Whether a chunk contains the quote, and is from the document that the row names."""
        return (
            bool(self.quote)
            and is_source(self.source, hit.source)
            and is_verbatim(escape_control_tokens(self.quote), escape_control_tokens(hit.text))
        )

    def gains(self, hits: Sequence[Hit], right: Sequence[Hit]) -> list[bool]:
        """For each retrieved chunk, whether it is a right one that wasn't counted before.

        right: the question's right chunks in the searched index. If there is only one, any other
        chunk that contains the quote counts, too.
        """
        needed = {hit.id for hit in right}
        gains = []
        for hit in hits:
            is_right = hit.id in needed or (len(right) == 1 and self.is_proved_by(hit))
            gains.append(is_right and bool(needed))
            if is_right:
                needed -= {hit.id} if len(right) > 1 else needed
        return gains


def question_in(row: Row) -> Question:
    """The question of a row. Raises `BadRow` if the row can't be used."""
    prompt = split_turns(row)[0]
    if not any(turn["role"] == "user" for turn in prompt):
        raise BadRow("the row has no user turn", "drop it, e.g. with data.filter")
    if row.get("context") in ("with", "missing") or row.get("retrieved") is not None:
        raise BadRow(
            "the row's prompt already contains documents",
            "use questions without a context, e.g. of synth.from_docs with context: without",
        )
    is_answerable = row.get("answerable", True)
    if not isinstance(is_answerable, bool):
        raise BadRow(f"`answerable` is {kind_of(is_answerable)}", "write true or false")
    return Question(
        row=row,
        prompt=prompt,
        text=question_of(prompt),
        answer=answer_text(row).strip(),
        chunks=_ids(row) if is_answerable else (),
        quote=str(row.get("quote") or "") if is_answerable else "",
        source=str(row.get("source") or ""),
        expected=_expected(row) if is_answerable else (),
        is_answerable=is_answerable,
    )


def right_chunks(
    questions: Sequence[Question], index: Index, retriever: Retriever
) -> list[list[Hit]]:
    """The right chunks of each question in an index; none for one whose chunk isn't there.

    They are found by their ids. A question without an id that the index knows, e.g. one written by
    hand or one made from other chunks of the same documents, has the first chunk with its quote.
    """
    right = [_by_id(question, retriever) for question in questions]
    unresolved = [i for i, hits in enumerate(right) if not hits and questions[i].quote]
    for i, hit in _by_quote(questions, unresolved, Chunks(index.path), retriever):
        right[i] = [hit]
    return right


def distractors(
    questions: Sequence[Question], retriever: Retriever, count: int
) -> Iterator[list[Hit]]:
    """The first `count` chunks retrieved for each question that don't answer it, best first."""
    retrieved = retriever.search([question.text for question in questions], count + MARGIN)
    for question, hits in zip(questions, retrieved, strict=True):
        yield [hit for hit in hits if not question.may_be_answered_by(hit)][:count]


def _ids(row: Row) -> tuple[str, ...]:
    if isinstance(row.get("chunk"), str):
        return (row["chunk"],)
    return tuple(map(str, row.get("parents") or ()))


def _expected(row: Row) -> Expected:
    """The row's `expected` texts. Raises `BadRow` for anything else."""
    value = row.get("expected")
    texts = [value] if isinstance(value, str) else value or []
    if not isinstance(texts, list) or not all(map(_is_expected, texts)):
        raise BadRow(
            "`expected` isn't a list of texts",
            'write e.g. expected: ["50 MB"], or [["50 MB", "50 megabytes"]] for alternatives',
        )
    return texts


def _is_expected(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(
            isinstance(alternative, str) and alternative.strip() for alternative in value
        )
    return isinstance(value, str) and bool(value.strip())


def _by_id(question: Question, retriever: Retriever) -> list[Hit]:
    hits = map(retriever.chunk, dict.fromkeys(question.chunks))
    return [hit for hit in hits if hit is not None]


def _by_quote(
    questions: Sequence[Question], unresolved: Iterable[int], chunks: Chunks, retriever: Retriever
) -> Iterator[tuple[int, Hit]]:
    """(number of the question, the first chunk with its quote)."""
    waiting = list(unresolved)
    if not waiting:
        return
    words = {i: max(re.findall(r"\w+", questions[i].quote), key=len, default="") for i in waiting}
    for chunk in chunks:
        hits = [
            i
            for i in waiting
            if words[i] in chunk.text  # rules most chunks out, quickly
            and is_source(questions[i].source, chunk.source)
            and is_verbatim(questions[i].quote, chunk.text)
        ]
        for i in hits:
            hit = retriever.chunk(chunk.id)
            assert hit is not None  # the index names its own chunks
            yield i, hit
        waiting = [i for i in waiting if i not in hits]


def is_source(path_end: str, source: str) -> bool:
    """Whether a chunk is from the document that a row names, by its path or by the end of it."""
    return not path_end or source == path_end or source.endswith(f"/{path_end}")


MAX_SHOWN_QUESTION = 70
"""Characters of a question that a message repeats."""
KEEP_SETTING = "keep: [quote, source, expected, answerable]"
_STRAIGHT = str.maketrans("‘’“”–—", "''\"\"--")


class _NearQuote(NamedTuple):
    """A chunk that nearly has a quote: word for word, apart from case, or apart from marks too.

    The first three order chunks by how similar they are.
    """

    is_own: bool
    is_verbatim: bool
    is_same_case: bool
    source: str


def missing_chunk_errors(
    questions: Sequence[Question], right: Sequence[Sequence[Hit]], index: Index
) -> dict[int, BadRow]:
    """Number of an answerable question without a right chunk → why it has none."""
    numbers = [
        number
        for number, (question, hits) in enumerate(zip(questions, right, strict=True))
        if question.is_answerable and not hits
    ]
    return missing_chunk_reasons(questions, numbers, index)


def missing_chunk_reasons(
    questions: Sequence[Question], numbers: Sequence[int], index: Index
) -> dict[int, BadRow]:
    """Number of a question → why it has no right chunk. numbers: of those that have none."""
    quoted = {number: questions[number] for number in numbers if questions[number].quote}
    near = _nearest(quoted, Chunks(index.path)) if quoted else {}
    return {
        number: _quote(questions[number], near.get(number))
        if questions[number].quote
        else _unnamed_chunk_error(questions[number])
        for number in numbers
    }


def _unnamed_chunk_error(question: Question) -> BadRow:
    question_line = _question_line(question)
    if question.chunks:
        return BadRow(
            f"the index has none of the chunks that the row was made from, and the row has no "
            f"quote: {question_line}",
            "index the same chunks that the questions were made from",
        )
    return BadRow(
        f"the row doesn't name the chunk with its answer: {question_line}",
        "give it `quote`, a sentence of the document, or `chunk`, the id of a chunk; or "
        "`answerable: false` if the documents don't contain the answer. If the file has these "
        f"columns, keep them in data.file: {KEEP_SETTING}, without those that the file lacks",
    )


def _quote(question: Question, near: _NearQuote | None) -> BadRow:
    quote, about = question.quote, _question_line(question)
    if letters(quote) < MIN_LETTERS:
        return BadRow(
            f'the quote "{quote}" is too short, it needs at least {MIN_LETTERS} letters or digits: '
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


def _nearest(questions: Mapping[int, Question], chunks: Iterable[Chunk]) -> dict[int, _NearQuote]:
    """Number of a question → the first of the chunks that are most similar to its quote."""
    folded = {number: _fold_quotes(question.quote) for number, question in questions.items()}
    nearest: dict[int, _NearQuote] = {}
    for chunk in chunks:
        text = _fold_quotes(chunk.text)
        for number, quote in folded.items():
            if quote and quote in text:
                near = _compare_quote(questions[number], chunk)
                if number not in nearest or near[:3] > nearest[number][:3]:
                    nearest[number] = near
    return nearest


def _compare_quote(question: Question, chunk: Chunk) -> _NearQuote:
    quote, text = (
        _collapse_spaces(raw_text.translate(_STRAIGHT)) for raw_text in (question.quote, chunk.text)
    )
    return _NearQuote(
        is_own=is_source(question.source, chunk.source),
        is_verbatim=is_verbatim(question.quote, chunk.text),
        is_same_case=quote in text,
        source=chunk.source,
    )


def _question_line(question: Question) -> str:
    """The question as one line."""
    return shortened(_collapse_spaces(question.text), MAX_SHOWN_QUESTION)


def _fold_quotes(text: str) -> str:
    return one_line(text.translate(_STRAIGHT))


def _collapse_spaces(text: str) -> str:
    return " ".join(text.split())
