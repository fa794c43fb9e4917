"""`eval.sql`: does the query return the same result as the expected query?"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Literal

import msgspec

from finery import Files, Job, setting
from finery.rows import Row, answer_text
from finery.rows.answers.reading import extract_answer
from finery.rows.report import ReportTable
from finery_eval.asking import SHOWN, refuse_empty, refuse_rows
from finery_eval.database import Cell, Database, QueryError, Result
from finery_eval.evaluation import answers_table
from finery_eval.evaluator import BatchEvaluator, longest_answer
from finery_eval.verdicts import Answers, Verdict, Verdicts, each_judged

DIGITS = 12
"""Compared digits of a fraction. The order of a sum changes the last digits."""

_FENCE = re.compile(r"```(?:\w*sql\w*\b)?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_TOKEN = re.compile(
    r"(?P<text>'(?:[^']|'')*'?)"
    r"|(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))"
    r'|"(?:[^"]|"")*"?|`[^`]*`?|\[[^\]]*\]?|\w+|[<>=!|]+|\S',
    re.DOTALL,
)


class Wanted(msgspec.Struct, frozen=True):
    """An expected query, what it finds, and whether the order of its rows counts."""

    sql: str
    result: Result
    ordered: bool


class Sql(BatchEvaluator, task="complex"):
    """Judge models by the results of their SQL: each query is run and its result compared.

    SQLite runs both the answer and the row's completion on an in-memory database that the scripts
    in `schema` create. An answer is right if it returns the same rows: columns in the same order
    under any names, repeated rows equally often, fractions to 12 digits. If the answer has fenced
    blocks (three backticks), the SQL is taken from the first.

    Metrics, each from 0 to 1 with a 95 % interval:
    - `accuracy`: answers with the expected result, known as execution accuracy (Yu et al. 2018,
      Spider; Li et al. 2023, BIRD).
    - `exact`: answers equal to the expected query, ignoring case, spaces and comments.
    - `valid`: answers that are a single query and run.

    Queries are untrusted: they can only read the tables. A query that writes, takes
    longer than `timeout`, returns more than 100,000 rows, or depends on random numbers or today's
    date is wrong. `predictions.jsonl` has the error of each wrong answer.

    Intervals: Wilson score (Wilson 1927). Each further model is compared with the first on the same
    rows: exact McNemar test (McNemar 1947), Newcombe's paired difference (1998, method 10).

    Raises DataError for a script that fails, for rows without an expected query and for expected
    queries that fail, UsageError for a malformed `require`.
    """

    schema: Files = setting(
        help="SQL scripts for SQLite that create the database with its rows, run in this order."
    )
    ordered: Literal["auto", "always", "never"] = setting(
        "auto",
        help="Whether the order of the rows counts. auto: only if the expected query has an ORDER "
        "BY outside parentheses.",
    )
    timeout: float = setting(5.0, gt=0, help="Longest run time of a query, in seconds.")
    max_tokens: int = longest_answer(128)
    ignore_case: bool = setting(False, help="Treat 'High' and 'high' in a result as the same text.")

    def metric_names(self) -> list[str]:
        """The metrics of each model; the first one decides."""
        return ["accuracy", "exact", "valid"]

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Run the expected queries."""
        database = Database(self.schema.paths, timeout=self.timeout)
        expected = self.expectations(job, rows, database)

        def judged(answers: Answers) -> Verdicts:
            with closing(database):
                judged = each_judged(
                    answers, lambda i, a: self.verdict(expected[i], a.text, database)
                )
            return self.verdicts(answers, judged, [queries_table(judged), answers_table(answers)])

        return judged

    def expectations(self, job: Job, rows: Sequence[Row], database: Database) -> list[Wanted]:
        """The expected result of each row. Raises `DataError` with the rows whose query fails."""
        queries = [self.text(answer_text(row)) for row in rows]
        refuse_empty(rows, queries)
        expectations: list[Wanted] = []
        failed: list[str] = []
        for row, sql in zip(rows, queries, strict=True):
            try:
                ordered = self.ordered == "always" or (self.ordered == "auto" and has_order(sql))
                expectations.append(Wanted(sql, database.query(sql), ordered))
            except QueryError as error:
                failed.append(f"{row['id']}: {error}: {sql:.80}")
        refuse_rows(
            "some expected queries fail", failed, fix="correct them, or the scripts in `schema`"
        )
        empty = [  # no row, or none with a value, such as the sum of no rows
            row["id"]
            for row, expectation in zip(rows, expectations, strict=True)
            if all(cell is None for cells in expectation.result for cell in cells)
        ]
        if empty:
            named = ", ".join(empty[:SHOWN]) + ", …" * (len(empty) > SHOWN)
            job.log(
                f"{len(empty)} expected queries return nothing, which is often a mistake: {named}"
            )
        return expectations

    def text(self, answer: str) -> str:
        """The SQL in an answer."""
        text = extract_answer(answer, self.extract)
        fenced = _FENCE.search(text)
        return (fenced[1] if fenced else text).strip()

    def verdict(self, expectation: Wanted, answer: str, database: Database) -> Verdict:
        """The metrics of an answer."""
        sql = self.text(answer)
        error, valid = None, True
        try:
            error = self.difference(expectation, database.query(sql))
        except QueryError as failure:
            error, valid = str(failure), False
        values = {
            "accuracy": error is None,
            "exact": normalised(sql) == normalised(expectation.sql),
            "valid": valid,
        }
        return Verdict(values, {"expected": expectation.sql, "prediction": sql, "error": error})

    def difference(self, expectation: Wanted, result: Result) -> str | None:
        """The difference between a result and the expected one; None if they are equal."""
        actual, expected = self.compared(result), self.compared(expectation.result)
        if actual and expected and len(actual[0]) != len(expected[0]):
            return f"{len(actual[0])} columns, expected {len(expected[0])}"
        if len(actual) != len(expected):
            return f"{len(actual)} rows, expected {len(expected)}"
        counts, right = Counter(actual), Counter(expected)
        if counts != right:
            wrong, missing = next(iter(counts - right)), next(iter(right - counts))
            return f"returns {wrong!s:.80}, expected {missing!s:.80}"
        if expectation.ordered and actual != expected:
            return "the rows are right, but in the wrong order"
        return None

    def compared(self, result: Result) -> Result:
        """A result as it is compared."""

        def cell(value: Cell) -> Cell:
            if isinstance(value, float):
                return float(f"{value:.{DIGITS}g}")
            return value.casefold() if isinstance(value, str) and self.ignore_case else value

        return [tuple(map(cell, row)) for row in result]


def tokens(sql: str) -> Iterator[str]:
    """The words, signs and literals of a query, without comments; all but texts in lower case."""
    for match in _TOKEN.finditer(sql):
        if match["comment"] is None:
            yield match[0] if match["text"] is not None else match[0].casefold()


def normalised(sql: str) -> str:
    """A query in one spelling, to compare its text."""
    return " ".join(tokens(sql)).rstrip(" ;")


def has_order(sql: str) -> bool:
    """Whether a query has an ORDER BY outside parentheses."""
    depth, before = 0, ""
    for token in tokens(sql):
        if depth == 0 and (before, token) == ("order", "by"):
            return True
        depth += (token == "(") - (token == ")")
        before = token
    return False


def queries_table(judged: Mapping[str, Sequence[Verdict]]) -> ReportTable:
    """How many queries are right, return something else, or fail."""
    rows = []
    for name, verdicts in judged.items():
        right = sum(verdict.values["accuracy"] for verdict in verdicts)
        valid = sum(verdict.values["valid"] for verdict in verdicts)
        rows.append([name, right, valid - right, len(verdicts) - valid])
    return ReportTable("Queries", ["model", "right", "another result", "fail"], rows)
