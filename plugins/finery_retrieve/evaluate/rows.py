"""The questions of an evaluator's rows, or an error that lists the rows that can't be used.

Input: rows. Output: questions whose right chunks can be looked up.
"""

from collections.abc import Sequence

from finery import Dataset
from finery.rows import Row
from finery.rows.badrow import BadRow
from finery_eval.asking import refuse, some
from finery_retrieve.questions import Question, question_in


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
