"""`eval.exact`: is the whole answer the expected one?"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from finery import Job
from finery.rows import Row, answer_text
from finery.rows.answers.reading import extracted
from finery_eval import evaluator
from finery_eval.evaluator import Answers, Evaluator
from finery_eval.verdicts import Judged, Verdicts


class Exact(Evaluator, task="extraction"):
    """Judge models by exact match: the share of rows where the whole answer is the expected one.

    An answer is right if its text equals the row's completion. White space at the ends of both
    is ignored, and `extract`, where it matches, is applied to both.
    `accuracy` comes with its 95 % Wilson score interval (Wilson 1927). Each further model is
    compared with the first on the same rows: exact McNemar test (McNemar 1947) and Newcombe's
    interval for the paired difference (Newcombe 1998, method 10).

    Raises DataError for rows without an expected answer, UsageError for a malformed `require`.
    """

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Read the expected answers. Raises `DataError` listing rows without one."""
        expected = [self.text(answer_text(row)) for row in rows]
        refuse_empty(rows, expected)
        return partial(self.verdicts, expected)

    def verdicts(self, expected: Sequence[str], answers: Answers) -> Verdicts:
        """Compare the answers with the expected ones."""
        facts = {
            name: [self.judge(want, a.text) for want, a in zip(expected, completions, strict=True)]
            for name, completions in answers.items()
        }
        return Verdicts(
            judged={
                n: Judged(of, {"accuracy": [f["correct"] for f in of]}) for n, of in facts.items()
            },
            metrics=self.metric_names(),
            headline=self.metric_names(),
            tables=[evaluator.answers_table(answers)],
        )

    def text(self, text: str) -> str:
        """An answer as it is compared."""
        text = extracted(text, self.extract).strip()
        return text.casefold() if self.ignore_case else text

    def judge(self, expected: str, answer: str) -> dict[str, Any]:
        """What an answer counts as."""
        prediction = self.text(answer)
        return {"expected": expected, "prediction": prediction, "correct": prediction == expected}


def refuse_empty(rows: Sequence[Row], expected: Sequence[str]) -> None:
    """Raise `DataError` for rows without an expected answer."""
    evaluator.refuse_calls(rows)
    evaluator.refuse(
        "some rows have no expected answer",
        (row["id"] for row, text in zip(rows, expected, strict=True) if not text),
        fix="give each row a completion, or drop it",
    )
