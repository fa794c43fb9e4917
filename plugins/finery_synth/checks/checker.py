"""The checks that look at a single generated row."""

import importlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from finery import DataError, StepError, UsageError, load_source, shown
from finery.rows import Row, answer_text
from finery.rows.answers.answerschema import AnswerSchema
from finery.rows.answers.jsonvalues import NotJson, parse, unfenced
from finery.rows.answers.reading import Expected, Reader
from finery.rows.badrow import BadRow
from finery.rows.generated import Checked
from finery.rows.parts import id_of, text_named
from finery.rows.templates.limits import patterns_of, search
from finery.util.text import did_you_mean
from finery_eval.database import Database, QueryError
from finery_synth.checks.settings import Checks, Functions

SQL_SECONDS = 5.0
"""Time limit of a query."""
Test = Callable[[Row], tuple[str, Any]]
"""Returns what is wrong with a row (empty if it passes), and what was measured."""


class Checker:
    """The checks of one run, the cheap ones first."""

    def __init__(self, checks: Checks) -> None:
        self._tests = list(_tests(checks))

    def checked(self, row: Row) -> list[Checked]:
        """The results for a row, up to the first check that it fails."""
        results: list[Checked] = []
        for check, test in self._tests:
            try:
                detail, value = test(row)
            except BadRow as error:
                raise DataError(error.what, where=f"row {id_of(row)}", fix=error.fix) from error
            results.append(Checked(check=check, passed=not detail, value=value, detail=detail))
            if detail:
                break
        return results


def _tests(checks: Checks) -> Iterator[tuple[str, Test]]:
    if checks.allowed:
        yield "allowed", partial(_allowed, tuple(checks.allowed))
    if checks.fields:
        reader = Reader(
            fields=tuple(checks.fields), labels=tuple(map(tuple, checks.fields.values()))
        )
        yield "fields", partial(_fields, reader)
    for kind in ("matches", "excludes"):
        for name, pattern in getattr(checks, kind).items():
            check = f"{kind}.{name}"
            yield check, partial(_pattern, check, name, re.compile(pattern), kind == "matches")
    for kind in ("min_characters", "max_characters"):
        for name, limit in getattr(checks, kind).items():
            check = f"{kind}.{name}"
            yield check, partial(_length, check, name, limit, kind == "min_characters")
    schema = checks.answer_schema()
    if schema is not None:
        yield "schema", partial(_json, schema)
    if checks.sql is not None:
        yield "sql", partial(_sql, Database(checks.sql.paths, timeout=SQL_SECONDS))
    if checks.python is not None:
        for name, function in functions_of(checks.python).items():
            yield f"python.{name.rpartition(':')[2]}", partial(_python, name, function)


def _allowed(answers: tuple[str, ...], row: Row) -> tuple[str, Any]:
    answer = answer_text(row).strip()
    return "" if answer in answers else f"the answer {answer!r:.80} isn't allowed", None


def _fields(reader: Reader, row: Row) -> tuple[str, Any]:
    values = reader.read(answer_text(row), Expected(())).values
    bad = [name for name, value in zip(reader.fields, values, strict=True) if value is None]
    return f"{bad[0]} is missing or has a value that isn't allowed" if bad else "", None


def _pattern(
    check: str, name: str, pattern: re.Pattern[str], must: bool, row: Row
) -> tuple[str, Any]:
    match = search(pattern, _text(check, name, row), f"checks.{check}")
    if bool(match) == must:
        return "", None
    if match:
        return f"{name} matches {pattern.pattern}: {match[0]!r:.80}", None
    return f"{name} doesn't match {pattern.pattern}", None


def _length(check: str, name: str, limit: int, is_least: bool, row: Row) -> tuple[str, Any]:
    length = len(_text(check, name, row))
    if length >= limit if is_least else length <= limit:
        return "", length
    word = "fewer" if is_least else "more"
    return f"{name} has {length:,} characters, {word} than {limit:,}", length


def _text(check: str, name: str, row: Row) -> str:
    text = text_named(row, name)
    if text is None:
        raise UsageError(
            f"generated rows have no '{name}'",
            where=f"checks.{check}",
            fix=did_you_mean(name, ["system", "user", "assistant", *row]),
        )
    return text


def _json(schema: AnswerSchema, row: Row) -> tuple[str, Any]:
    try:
        value = parse(answer_text(row))
    except NotJson as error:
        return f"the answer is {error}", None
    with patterns_of("checks: a pattern of the schema"):
        problem = schema.problem(value)
    return f"the answer doesn't fit the schema: {problem.text}" if problem else "", None


def _sql(database: Database, row: Row) -> tuple[str, Any]:
    try:
        return "", len(database.query(unfenced(answer_text(row))))
    except QueryError as error:
        return f"the query fails: {error}", None


def _python(name: str, function: Callable[[Row], Any], row: Row) -> tuple[str, Any]:
    try:
        verdict = function(dict(row))
    except Exception as error:  # the recipe's own code can raise anything
        raise StepError(
            f"the check {name} failed: {type(error).__name__}: {error}",
            where=f"row {id_of(row)}",
            fix="correct it and build again: answers so far are kept",
        ) from error
    if verdict is None or verdict is True:
        return "", None
    return verdict if isinstance(verdict, str) and verdict else "the check failed", None


def functions_of(settings: Functions) -> dict[str, Callable[[Row], Any]]:
    """Name in the recipe → function. `UsageError` for one that doesn't exist."""
    file = settings.file.path if settings.file is not None else None
    modules: dict[str, Any] = {}
    functions: dict[str, Callable[[Row], Any]] = {}
    for name in settings.functions:
        package, _, attribute = name.rpartition(":")
        module = modules.get(package) or modules.setdefault(package, _module(file, package))
        function = getattr(module, attribute, None)
        if not callable(function):
            raise UsageError(
                f"{shown(Path(module.__file__))} has no function '{attribute}'",
                where="checks.python.functions",
                fix=did_you_mean(attribute, [n for n, v in vars(module).items() if callable(v)]),
            )
        functions[name] = function
    return functions


def _module(file: Path | None, package: str) -> Any:
    """The module in a file, freshly executed under a name that nothing imports, or a package's."""
    try:
        if file is None:
            return importlib.import_module(package)
        return load_source(file, f"finery_checks_{file.stem}")
    except Exception as error:
        raise UsageError(
            f"{package or 'the file'} can't be imported: {type(error).__name__}: {error}",
            where="checks.python.functions" if file is None else shown(file),
            fix="install its package, or correct the name" if file is None else "correct the file",
        ) from error
