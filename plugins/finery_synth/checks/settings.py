"""`checks:` of a generator: what every generated row must pass.

`checker` runs the checks of a single row, `similarity` compares rows, and
`finery_synth.judge.scores` uses a judge.
"""

import re
from typing import Any, Literal

from finery import Files, OneFile, Settings, UsageError, setting
from finery.rows.answers.answerschema import AnswerSchema, check_schema
from finery.rows.parts import check_lengths


class Functions(Settings):
    """Python functions that check a row: `{file: checks.py, functions: [polite]}`."""

    file: OneFile | None = setting(
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
    prompt: OneFile | None = setting(
        None,
        help="A Jinja file with the judge's prompt. `finery synth prompt judge` prints the "
        "default.",
    )


class Checks(Settings):
    """What every generated row must pass. If one fails, the request is repeated.

    The texts of a row have the same names as in `data.filter`: `user`, `assistant` (the answer), or
    a column.
    """

    json_schema: OneFile | None = setting(
        None, help="A JSON Schema file that every answer must follow."
    )
    schema: dict[str, Any] | None = setting(
        None,
        help="The same, as an inline JSON Schema.",
        examples=[{"type": "object", "required": ["city"]}],
    )
    matches: dict[str, str] = setting(
        {},
        help="Text or column: a regular expression that must match somewhere in it.",
        examples=[{"assistant": "^category: "}],
    )
    excludes: dict[str, str] = setting(
        {},
        help="Text or column: a regular expression that must not match anywhere in it.",
        examples=[{"assistant": "(?i)as an ai"}],
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
    min_characters: dict[str, int] = setting(
        {}, help="Text or column: its minimum number of characters.", examples=[{"user": 20}]
    )
    max_characters: dict[str, int] = setting(
        {}, help="Text or column: its maximum number of characters.", examples=[{"assistant": 400}]
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
        for kind in ("matches", "excludes"):
            for name, pattern in getattr(self, kind).items():
                try:
                    re.compile(pattern)
                except (re.error, RecursionError) as error:
                    raise UsageError(
                        f"the regular expression is invalid: {error}",
                        where=f"checks.{kind}.{name}",
                        fix="correct it",
                    ) from None
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
        check_lengths(self.min_characters, self.max_characters, "checks.")
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
