"""Questions whose right chunk is known: read from rows, and looked up in an index.

Input: rows with a question and the id of its chunk, or a quote from it. Output: questions with the
chunks that answer them, and chunks that don't.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from finery import Dataset, Index
from finery.rows import Conversation, Row, answer_text, split_turns
from finery.rows.badrow import BadRow, kind_of
from finery_eval.asking import refuse, some
from finery_retrieve.citations import is_verbatim, without_numbers
from finery_retrieve.expected import Expected, contains, one_line
from finery_retrieve.index.chunks import Chunks, plain
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
        answer = without_numbers(self.answer)
        return bool(self.answer and self.expected) and not contains(answer, self.expected)

    def is_proved_by(self, hit: Hit) -> bool:
        """Whether a chunk contains the quote, and is from the document that the row names."""
        return (
            bool(self.quote)
            and is_source(self.source, hit.source)
            and is_verbatim(plain(self.quote), plain(hit.text))
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
    wanted = [i for i, hits in enumerate(right) if not hits and questions[i].quote]
    for i, hit in _by_quote(questions, wanted, Chunks(index.path), retriever):
        right[i] = [hit]
    return right


def distractors(
    questions: Sequence[Question], retriever: Retriever, count: int
) -> Iterator[list[Hit]]:
    """The first `count` chunks retrieved for each question that don't answer it, best first."""
    retrieved = retriever.search([question.text for question in questions], count + MARGIN)
    for question, hits in zip(questions, retrieved, strict=True):
        yield [hit for hit in hits if not question.may_be_answered_by(hit)][:count]


def listed(hits: Iterable[Hit]) -> list[dict[str, Any]]:
    """The column `retrieved`: the chunks in a prompt, in its order."""
    return [
        {"id": hit.id, "source": hit.source, "heading": hit.heading, "score": hit.score}
        for hit in hits
    ]


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
        return bool(value) and all(isinstance(each, str) and each.strip() for each in value)
    return isinstance(value, str) and bool(value.strip())


def _by_id(question: Question, retriever: Retriever) -> list[Hit]:
    hits = map(retriever.chunk, dict.fromkeys(question.chunks))
    return [hit for hit in hits if hit is not None]


def _by_quote(
    questions: Sequence[Question], wanted: Iterable[int], chunks: Chunks, retriever: Retriever
) -> Iterator[tuple[int, Hit]]:
    """(number of the question, the first chunk with its quote)."""
    waiting = list(wanted)
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


def is_source(wanted: str, source: str) -> bool:
    """Whether a chunk is from the document that a row names, by its path or by the end of it."""
    return not wanted or source == wanted or source.endswith(f"/{wanted}")


def read_questions(rows: Dataset) -> list[Question]:
    """The questions of rows. Raises `DataError` that lists the rows that can't be used."""
    questions: list[Question] = []
    bad: list[tuple[Row, BadRow]] = []
    for row in some(list(rows)):
        try:
            questions.append(question_in(row))
        except BadRow as error:
            bad.append((row, error))
    refuse_rows("some rows can't be used as questions", bad)
    return questions


def read_answered(rows: Dataset) -> list[Question]:
    """The questions of rows that have an answer, or whose answer isn't in the documents."""
    questions = read_questions(rows)
    no_answer = BadRow(
        "the row has neither an answer nor `expected`",
        "give it an assistant turn, or `expected`: texts that a right answer contains",
    )
    without = [q for q in questions if q.is_answerable and not (q.answer or q.expected)]
    refuse_rows("some rows have no expected answer", [(q.row, no_answer) for q in without])
    return questions


def refuse_rows(what: str, bad: Sequence[tuple[Row, BadRow]]) -> None:
    """Raise a `DataError` that lists the rows with their reasons, if there are any."""
    if bad:
        reasons = (f"{row['id']}: {error.what}" for row, error in bad)
        refuse(what, reasons, fix=bad[0][1].fix or "correct these rows")
