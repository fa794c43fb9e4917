"""`eval.exact`: does the answer equal the expected one?"""

from collections.abc import Callable, Sequence

from finery import Completion, Job, setting
from finery.rows import Row, answer_text
from finery.rows.answers.reading import extract_answer
from finery_eval.asking import refuse_empty
from finery_eval.evaluator import Evaluator
from finery_eval.verdicts import Answers, Verdict, Verdicts


class Exact(Evaluator, task="extraction"):
    """Judge models by exact match: the share of answers that equal the expected one.

    An answer is right if its text equals the row's completion. White space at the ends of both
    is ignored, and `extract` is applied to both if it matches.
    `accuracy` comes with its 95 % Wilson score interval (Wilson 1927). Each further model is
    compared with the first on the same rows: exact McNemar test (McNemar 1947) and Newcombe's
    interval for the paired difference (Newcombe 1998, method 10).

    Raises DataError for rows without an expected answer, UsageError for a malformed `require`.
    """

    ignore_case: bool = setting(False, help="Treat 'High' and 'high' as the same answer.")

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Raise `DataError` listing rows without an expected answer."""
        refuse_empty(rows, [self.expected(row) for row in rows])
        return super().judging(job, rows)

    def judge(self, row: Row, answer: Completion) -> Verdict:
        """Compare the answer with the expected one."""
        expected, prediction = self.expected(row), self.text(answer.text)
        facts = {"expected": expected, "prediction": prediction}
        return Verdict({"accuracy": prediction == expected}, facts)

    def expected(self, row: Row) -> str:
        """The expected answer as it is compared."""
        return self.text(extract_answer(answer_text(row), self.extract))

    def text(self, text: str) -> str:
        """The part of an answer that is compared, after `extract`."""
        return text.strip().casefold() if self.ignore_case else text.strip()
