"""`checks:` of a generator: what every generated row must pass.

`Checker` runs the checks of a single row. `similarity` compares rows, and `judges` uses a judge.
"""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from finery import DataError, File, Files, Settings, StepError, UsageError, setting
from finery.advanced import did_you_mean, load_source, shown
from finery.rows import Row, answer_text
from finery.rows.answers.answerschema import AnswerSchema, check_schema
from finery.rows.answers.jsonvalues import NotJson, parse, strip_fence
from finery.rows.answers.reading import Expected, Reader
from finery.rows.badrow import BadRow
from finery.rows.conditions import Condition, conditions_of
from finery.rows.generated import CheckResult
from finery.rows.parts import per_text_setting, row_id_of, text_by_name
from finery.rows.templates.limits import limit_patterns
from finery_eval.database import Database, QueryError

WITHIN = "checks."
"""What errors put before the names of settings."""


class Functions(Settings):
    """Python functions that check a row: `{file: checks.py, functions: [polite]}`."""

    file: File | None = setting(
        None,
        help="The Python file with the functions. Its code, and the project's modules that it "
        "imports, are part of the key. Without a file, name functions with their module.",
    )
    functions: list[str] = setting(
        min_length=1,
        help="Functions that take a row and return None or True if it passes, otherwise the reason "
        "as text, or False.",
        examples=[["polite"], ["my_package.checks:polite"]],
    )


class Similarity(Settings):
    """How similar a row may be to others; `data.dedup` explains similarity."""

    max: float = setting(
        0.8, ge=0.5, lt=1, help="A row with at least this similarity to another one is rejected."
    )
    on: Literal["prompt", "answer", "row"] | None = setting(
        None,
        help="What to compare. row: prompt and answer must both be similar. Default: the prompts, "
        "or in synth.answer the answers.",
    )
    to: list[Literal["seeds", "others"]] = setting(
        ["seeds", "others"],
        min_length=1,
        help="seeds: all input rows. others: the rows generated before it.",
    )


class Rubric(Settings):
    """A score that the model `judge` gives each row."""

    rubric: str = setting(min_length=1, help="What makes a row good, as a text for the judge.")
    min: int = setting(4, ge=1, help="The lowest score that passes.")
    scale: int = setting(5, ge=2, le=100, help="The best score; 1 is the worst.")
    max_tokens: int = setting(256, ge=16, help="Maximum tokens of the judge's answer.")
    prompt: File | None = setting(
        None,
        help="A Jinja file with the judge's prompt. `finery synth prompt judge` prints the "
        "default.",
    )


class Checks(Settings):
    """What every generated row must pass. If one fails, the request is repeated.

    The texts of a row have the same names as in `data.filter`: `user`, `assistant` (the answer), or
    a column.
    """

    json_schema: File | None = setting(
        None, help="A JSON Schema file that every answer must follow."
    )
    schema: dict[str, Any] | None = setting(
        None,
        help="The same, as an inline JSON Schema.",
        examples=[{"type": "object", "required": ["city"]}],
    )
    matches: dict[str, str] = per_text_setting(
        "a regular expression that must match somewhere in it",
        {"assistant": "^category: "},
        column_of="",
    )
    excludes: dict[str, str] = per_text_setting(
        "a regular expression that must not match anywhere in it",
        {"assistant": "(?i)as an ai"},
        column_of="",
    )
    allowed: list[str] = setting(
        [], help="The complete list of allowed answers.", examples=[["billing", "shipping"]]
    )
    fields: dict[str, list[str]] | None = setting(
        None,
        min_length=1,
        help="Field of the answer: its allowed values. Answers are JSON objects or lines "
        "`name: value`.",
        examples=[{"priority": ["high", "low"]}],
    )
    min_characters: dict[str, int] = per_text_setting(
        "its minimum number of characters", {"user": 20}, column_of=""
    )
    max_characters: dict[str, int] = per_text_setting(
        "its maximum number of characters", {"assistant": 400}, column_of=""
    )
    sql: Files | None = setting(
        None,
        help="SQL scripts that create and fill a SQLite database. Every answer must be a query "
        "that runs on it.",
    )
    python: Functions | None = setting(None, help="Python functions that check a row.")
    similarity: Similarity | None = setting(None, help="How similar a row may be to others.")
    judge: Rubric | None = setting(
        None, help="A score from the model that is set as `judge` of the step."
    )

    def check(self) -> None:
        """Raise `UsageError` for invalid checks."""
        conditions_of(self, WITHIN)
        for name, values in (self.fields or {}).items():
            if not values:
                raise UsageError(
                    "a field without allowed values rejects every answer",
                    where=f"checks.fields.{name}",
                    fix="list its values, or remove it",
                )
        if self.json_schema is not None and self.schema is not None:
            raise UsageError(
                "json_schema and schema are both set", where="checks.schema", fix="remove one"
            )
        if self.schema is not None:
            check_schema(self.schema, "checks.schema")
        if self.python is not None:
            has_file = self.python.file is not None
            for name in self.python.functions:
                _module, colon, function = name.rpartition(":")
                if bool(colon) == has_file or not function.isidentifier():
                    raise UsageError(
                        f"'{name}' isn't the name of a function",
                        where="checks.python.functions",
                        fix="use functions of `file`, or package.module:function without a file",
                    )
        if self.judge is not None and self.judge.min > self.judge.scale:
            raise UsageError(
                f"min is {self.judge.min}, but the best score is {self.judge.scale}",
                where="checks.judge.min",
                fix="reduce it, or raise `scale`",
            )

    def answer_schema(self) -> AnswerSchema | None:
        """The JSON Schema of the answers, if there is one; `DataError` if it is invalid."""
        if self.json_schema is not None:
            return AnswerSchema(self.json_schema.path)
        return None if self.schema is None else AnswerSchema(self.schema)


# -- run on a row ---------------------------------------------------------------------------------


SQL_SECONDS = 5.0
"""Time limit of a query."""
Test = Callable[[Row], tuple[str, Any]]
"""Returns what is wrong with a row (empty if it passes), and what was measured."""


class Checker:
    """The checks of one run, the cheap ones first."""

    def __init__(self, checks: Checks) -> None:
        self._tests = list(_tests(checks))

    def checked(self, row: Row) -> list[CheckResult]:
        """The results for a row, up to the first check that it fails."""
        results: list[CheckResult] = []
        for check, test in self._tests:
            try:
                detail, value = test(row)
            except BadRow as error:
                raise DataError(error.what, where=f"row {row_id_of(row)}", fix=error.fix) from error
            results.append(CheckResult(check=check, passed=not detail, value=value, detail=detail))
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
    for condition in conditions_of(checks, WITHIN):
        yield f"{condition.field}.{condition.name}", partial(_condition, condition)
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


def _condition(condition: Condition, row: Row) -> tuple[str, Any]:
    text = text_by_name(row, condition.name)
    if text is None:
        raise UsageError(
            f"generated rows have no '{condition.name}'",
            where=condition.place,
            fix=did_you_mean(condition.name, ["system", "user", "assistant", *row]),
        )
    is_length = isinstance(condition.limit, int)
    return condition.problem(text), len(text) if is_length else None


def _json(schema: AnswerSchema, row: Row) -> tuple[str, Any]:
    try:
        value = parse(answer_text(row))
    except NotJson as error:
        return f"the answer is {error}", None
    with limit_patterns("checks: a pattern of the schema"):
        problem = schema.problem(value)
    return f"the answer doesn't fit the schema: {problem.text}" if problem else "", None


def _sql(database: Database, row: Row) -> tuple[str, Any]:
    try:
        return "", len(database.query(strip_fence(answer_text(row))))
    except QueryError as error:
        return f"the query fails: {error}", None


def _python(name: str, function: Callable[[Row], Any], row: Row) -> tuple[str, Any]:
    try:
        verdict = function(dict(row))
    except Exception as error:  # the recipe's own code can raise anything
        raise StepError(
            f"the check {name} failed: {type(error).__name__}: {error}",
            where=f"row {row_id_of(row)}",
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
