"""The questions that evaluators ask, and the prompts of `eval.grounded`: each kind of context.

Input: rows with questions, and an index. Output: prompts, each with the chunks in it.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from finery import DataError, Dataset, Index, Job
from finery.advanced import counted
from finery.rows import Conversation, Row
from finery.rows.badrow import BadRow
from finery_eval.asking import refuse_rows, require_rows
from finery_retrieve.index.context import ContextPrompt, check_limit
from finery_retrieve.index.retriever import Hit, Retriever
from finery_retrieve.questions import (
    Question,
    distractors,
    missing_chunk_errors,
    question_in,
    right_chunks,
)

Context = Literal["none", "oracle", "retrieved", "distractors"]
CONTEXTS: tuple[Context, ...] = ("none", "oracle", "retrieved", "distractors")


class QuestionInContext(NamedTuple):
    """A question with a context.

    number: of the question. hits: the chunks in the prompt, in its order. expects_answer: whether
    the model should answer; otherwise it should say that the documents don't contain the answer.
    has_answer: whether the answer is in the context.
    """

    number: int
    question: Question
    context: Context
    hits: list[Hit]
    messages: Conversation
    expects_answer: bool
    has_answer: bool


class Library(NamedTuple):
    """The questions, with what an index has for each.

    right: the right chunks. retrieved: the first k chunks. others: the first k that don't answer.
    """

    questions: Sequence[Question]
    right: Sequence[list[Hit]]
    retrieved: Sequence[list[Hit]]
    others: Sequence[list[Hit]]

    @classmethod
    def of(cls, job: Job, index: Index, questions: Sequence[Question], k: int) -> "Library":
        """Search the index. Raises `DataError` for questions without a right chunk."""
        retriever = Retriever.open(index, job)
        right = right_chunks_or_raise(questions, index, retriever)
        retrieved = retriever.search([question.text for question in questions], k)
        return cls(questions, right, retrieved, list(distractors(questions, retriever, k)))

    def document(self, number: int) -> str:
        """The subject of a question: the document of its right chunk, or else the row."""
        row, right = self.questions[number].row, self.right[number]
        row_source = str(row.get("source") or row["id"])
        return (right[0].source or right[0].id) if right else row_source

    def prompts(
        self, template: ContextPrompt, contexts: Sequence[Context]
    ) -> Iterator[QuestionInContext]:
        """Every question with each context. One without an answer only with what is retrieved."""
        for number, question in enumerate(self.questions):
            for context in contexts:
                if not question.is_answerable and context != "retrieved":
                    continue
                messages, hits = question.prompt, list[Hit]()
                if context != "none":
                    hits = template.fitting(self.hits(number, context))
                    messages = template.around(question.prompt, hits)
                yield QuestionInContext(
                    number=number,
                    question=question,
                    context=context,
                    hits=hits,
                    messages=messages,
                    expects_answer=question.is_answerable and context != "distractors",
                    has_answer=any(map(question.is_answered_by, hits)),
                )

    def hits(self, number: int, context: Context) -> list[Hit]:
        """The chunks for a question with a context, before `limit`."""
        hits = {"oracle": self.right, "retrieved": self.retrieved, "distractors": self.others}
        return hits[context][number]


def right_chunks_or_raise(
    questions: Sequence[Question], index: Index, retriever: Retriever
) -> list[list[Hit]]:
    """The right chunks of each question. Raises `DataError` for answerable ones without any."""
    right = right_chunks(questions, index, retriever)
    refuse_bad_rows(
        "some questions have no chunk in the index",
        [
            (questions[i].row, why)
            for i, why in missing_chunk_errors(questions, right, index).items()
        ],
    )
    return right


def prompts_of(
    job: Job, library: Library, template: ContextPrompt, contexts: Sequence[Context]
) -> list[QuestionInContext]:
    """Every question with each context. Logs contexts that aren't what they are called.

    Raises `DataError` if there is no prompt, or if `limit` leaves no prompt of a context with a
    document.
    """
    prompts, limit = list(library.prompts(template, contexts)), template.limit
    if not prompts:
        raise DataError(
            f"no row is a question for contexts: {', '.join(contexts)}",
            fix="add retrieved to contexts for rows with answerable: false",
        )
    cut = sum(prompt.context == "oracle" and not prompt.has_answer for prompt in prompts)
    if cut:
        chunks = counted(cut, "right chunk")
        job.log(f"oracle: {chunks} left out, longer than `limit` ({limit:,} tokens)")
    for context in dict.fromkeys(p.context for p in prompts if p.context != "none"):
        with_hits = [
            prompt
            for prompt in prompts
            if prompt.context == context and library.hits(prompt.number, context)
        ]
        check_limit(sum(not prompt.hits for prompt in with_hits), len(with_hits), limit, job)
    empty = sum(prompt.context == "distractors" and not prompt.hits for prompt in prompts)
    if empty:
        job.log(f"distractors: nothing else is retrieved for {counted(empty, 'question')}")
    return prompts


def read_questions(rows: Dataset) -> list[Question]:
    """The questions of rows. Raises `DataError` that lists the rows that can't be used."""
    questions: list[Question] = []
    bad: list[tuple[Row, BadRow]] = []
    for row in require_rows(list(rows)):
        try:
            questions.append(question_in(row))
        except BadRow as error:
            bad.append((row, error))
    refuse_bad_rows("some rows can't be used as questions", bad)
    return questions


def read_questions_with_answers(rows: Dataset) -> list[Question]:
    """The questions of rows that have an answer, or whose answer isn't in the documents."""
    questions = read_questions(rows)
    no_answer = BadRow(
        "the row has neither an answer nor `expected`",
        "give it an assistant turn, or `expected`: texts that a right answer contains",
    )
    without = [q for q in questions if q.is_answerable and not (q.answer or q.expected)]
    refuse_bad_rows("some rows have no expected answer", [(q.row, no_answer) for q in without])
    return questions


def refuse_bad_rows(problem: str, bad: Sequence[tuple[Row, BadRow]]) -> None:
    """Raise a `DataError` that lists the rows with their reasons, if there are any."""
    if bad:
        reasons = (f"{row['id']}: {error.what}" for row, error in bad)
        refuse_rows(problem, reasons, fix=bad[0][1].fix or "correct these rows")
