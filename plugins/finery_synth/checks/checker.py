"""The checks that look at a single generated row."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from finery import DataError, StepError, UsageError
from finery.rows import Row, answer_text
from finery.rows.answers.answerschema import AnswerSchema
from finery.rows.answers.jsonvalues import NotJson, parse, unfenced
from finery.rows.answers.reading import Expected, Reader
from finery.rows.badrow import BadRow
from finery.rows.generated import Checked
from finery.rows.parts import id_of, text_named
from finery.rows.templates.patience import patterns_of, search
from finery.util.text import did_you_mean
from finery_eval.database import Database, QueryError
from finery_synth.checks.functions import functions_of
from finery_synth.checks.settings import Checks

SQL_SECONDS = 5.0
"""Time limit of a query."""
Test = Callable[[Row], Checked]


class Checker:
    """The checks of one run, the cheap ones first."""

    def __init__(self, checks: Checks) -> None:
        self.schema = checks.answer_schema()
        self._tests = list(_tests(checks, self.schema))

    def checked(self, row: Row) -> list[Checked]:
        """The results for a row, up to the first check that it fails."""
        results: list[Checked] = []
        for test in self._tests:
            results.append(test(row))
            if not results[-1].passed:
                break
        return results


def _tests(checks: Checks, schema: AnswerSchema | None) -> Iterator[Test]:
    if checks.allowed:
        yield partial(_allowed, tuple(checks.allowed))
    if checks.fields:
        reader = Reader(
            fields=tuple(checks.fields), labels=tuple(map(tuple, checks.fields.values()))
        )
        yield partial(_fields, reader)
    for name, pattern in checks.matches.items():
        yield partial(_pattern, "matches", name, re.compile(pattern))
    for name, pattern in checks.excludes.items():
        yield partial(_pattern, "excludes", name, re.compile(pattern))
    for name, least in checks.min_characters.items():
        yield partial(_length, "min_characters", name, least)
    for name, most in checks.max_characters.items():
        yield partial(_length, "max_characters", name, most)
    if schema is not None:
        yield partial(_json, schema)
    if checks.sql is not None:
        yield partial(_sql, Database(checks.sql.paths, timeout=SQL_SECONDS))
    if checks.python is not None:
        for name, function in functions_of(checks.python).items():
            yield partial(_python, name, function)


def _allowed(answers: tuple[str, ...], row: Row) -> Checked:
    answer = answer_text(row).strip()
    detail = "" if answer in answers else f"the answer {answer!r:.80} isn't allowed"
    return Checked(check="allowed", passed=not detail, detail=detail)


def _fields(reader: Reader, row: Row) -> Checked:
    values = reader.read(answer_text(row), Expected(())).values
    bad = [name for name, value in zip(reader.fields, values, strict=True) if value is None]
    detail = f"{bad[0]} is missing or has a value that isn't allowed" if bad else ""
    return Checked(check="fields", passed=not bad, detail=detail)


def _pattern(check: str, name: str, pattern: re.Pattern[str], row: Row) -> Checked:
    with _named(row):
        match = search(pattern, _text(check, name, row), f"checks.{check}.{name}")
    passed = bool(match) == (check == "matches")
    text = f": {match[0]!r:.80}" if match else ""
    verb = "matches" if match else "doesn't match"
    detail = "" if passed else f"{name} {verb} {pattern.pattern}{text}"
    return Checked(check=f"{check}.{name}", passed=passed, detail=detail)


def _length(check: str, name: str, limit: int, row: Row) -> Checked:
    length = len(_text(check, name, row))
    passed = length >= limit if check == "min_characters" else length <= limit
    word = "fewer" if check == "min_characters" else "more"
    detail = "" if passed else f"{name} has {length:,} characters, {word} than {limit:,}"
    return Checked(check=f"{check}.{name}", passed=passed, value=length, detail=detail)


def _json(schema: AnswerSchema, row: Row) -> Checked:
    try:
        value = parse(answer_text(row))
    except NotJson as error:
        return Checked(check="schema", passed=False, detail=f"the answer is {error}")
    with _named(row), patterns_of("checks: a pattern of the schema"):
        problem = schema.problem(value)
    detail = f"the answer doesn't fit the schema: {problem.text}" if problem else ""
    return Checked(check="schema", passed=not problem, detail=detail)


def _sql(database: Database, row: Row) -> Checked:
    try:
        rows = database.query(unfenced(answer_text(row)))
    except QueryError as error:
        return Checked(check="sql", passed=False, detail=f"the query fails: {error}")
    return Checked(check="sql", passed=True, value=len(rows))


def _python(name: str, function: Callable[[Row], Any], row: Row) -> Checked:
    try:
        verdict = function(dict(row))
    except Exception as error:  # the recipe's own code can raise anything
        raise StepError(
            f"the check {name} failed: {type(error).__name__}: {error}",
            where=f"row {id_of(row)}",
            fix="correct it and build again: answers so far are kept",
        ) from error
    passed = verdict is None or verdict is True
    detail = (
        "" if passed else (verdict if isinstance(verdict, str) and verdict else "the check failed")
    )
    return Checked(check=f"python.{name.rpartition(':')[2]}", passed=passed, detail=detail)


@contextmanager
def _named(row: Row) -> Iterator[None]:
    """Turn a `BadRow` into an error that names the row."""
    try:
        yield
    except BadRow as error:
        raise DataError(error.what, where=f"row {id_of(row)}", fix=error.fix) from error


def _text(check: str, name: str, row: Row) -> str:
    text = text_named(row, name)
    if text is None:
        raise UsageError(
            f"generated rows have no '{name}'",
            where=f"checks.{check}.{name}",
            fix=did_you_mean(name, ["system", "user", "assistant", *row]),
        )
    return text
