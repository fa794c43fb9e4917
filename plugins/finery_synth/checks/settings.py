"""`checks:` of a generator: what every generated row must be.

`checker` runs those that look at one row alone, `copies` compares rows, and
`finery_synth.judge.scores` asks a judge.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

from finery import Files, OneFile, Settings, UsageError, setting
from finery.rows.answers.answerschema import AnswerSchema, check_schema
from finery.rows.lengths import check_lengths
from finery_synth.checks.rubric import Rubric


class Functions(Settings):
    """Functions in Python that look at a row: `{file: checks.py, functions: [polite]}`."""

    file: OneFile | None = setting(
        None,
        help="The Python file that holds them, beside the recipe. Its content is part of the key, "
        "what it imports isn't. Without it, functions are named by their module.",
    )
    functions: list[str] = setting(
        min_length=1,
        help="Functions that take a row and return None or true where it passes, else why it "
        "doesn't, as text, or false.",
        examples=[["polite"], ["my_package.checks:polite"]],
    )


class Similarity(Settings):
    """How similar a row may be to others, see `data.dedup` for what similarity is."""

    max: float = setting(
        0.8, ge=0.5, lt=1, help="A row that is so similar to another one, or more, is rejected."
    )
    on: Literal["prompt", "answer", "row"] | None = setting(
        None,
        help="What is compared; row: prompt and answer must both be alike. Default: the prompts; "
        "by synth.answer, whose prompts are given, the answers.",
    )
    to: list[Literal["seeds", "others"]] = setting(
        ["seeds", "others"],
        min_length=1,
        help="seeds: all rows that the step is given. others: the rows generated before it.",
    )


class Checks(Settings):
    """What every generated row must pass; one that doesn't is asked for again.

    Texts of a row are named as in `data.filter`: `user`, `assistant` (the answer), or a column.
    """

    json_schema: OneFile | None = setting(
        None, help="A JSON Schema file that every answer must fit."
    )
    schema: dict[str, Any] | None = setting(
        None, help="The same, written here.", examples=[{"type": "object", "required": ["city"]}]
    )
    matches: dict[str, str] = setting(
        {},
        help="Text or column: regular expression that must be found in it.",
        examples=[{"assistant": "^category: "}],
    )
    excludes: dict[str, str] = setting(
        {},
        help="Text or column: regular expression that must not be found in it.",
        examples=[{"assistant": "(?i)as an ai"}],
    )
    allowed: list[str] = setting(
        [], help="The answers allowed, as a whole.", examples=[["billing", "shipping"]]
    )
    fields: dict[str, list[str]] | None = setting(
        None,
        min_length=1,
        help="Field of the answer: the values it may have. Answers are JSON objects or lines "
        "`name: value`.",
        examples=[{"priority": ["high", "low"]}],
    )
    min_characters: dict[str, int] = setting(
        {}, help="Text or column: the fewest characters it may have.", examples=[{"user": 20}]
    )
    max_characters: dict[str, int] = setting(
        {}, help="Text or column: the most characters it may have.", examples=[{"assistant": 400}]
    )
    sql: Files | None = setting(
        None,
        help="SQL scripts that make a SQLite database, rows included: every answer must be a query "
        "that runs on it.",
    )
    python: Functions | None = setting(None, help="Functions in Python that look at a row.")
    similarity: Similarity | None = setting(None, help="How similar a row may be to others.")
    judge: Rubric | None = setting(
        None, help="A score from the model that the step's `judge` names."
    )

    def check(self) -> None:
        """Raise `UsageError` for what can't be checked."""
        for where, pattern in self._patterns():
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(
                    f"not a regular expression: {error}", where=where, fix="repair it"
                ) from None
        for name, values in (self.fields or {}).items():
            if not values:
                raise UsageError(
                    "a field without values that it may have rejects every answer",
                    where=f"checks.fields.{name}",
                    fix="name its values, or drop it",
                )
        if self.json_schema is not None and self.schema is not None:
            raise UsageError("there are two schemas", where="checks.schema", fix="drop one")
        check_lengths(self.min_characters, self.max_characters, "checks.")
        if self.schema is not None:
            check_schema(self.schema, "checks.schema")
        self._check_functions()
        if self.judge is not None and self.judge.min > self.judge.scale:
            raise UsageError(
                f"no score reaches {self.judge.min}: the best is {self.judge.scale}",
                where="checks.judge.min",
                fix="lower it, or raise `scale`",
            )

    def answer_schema(self) -> AnswerSchema | None:
        """The JSON Schema of the answers, if there is one; `DataError` where it is none."""
        if self.json_schema is not None:
            return AnswerSchema(self.json_schema.path)
        return None if self.schema is None else AnswerSchema(self.schema)

    def _patterns(self) -> Iterator[tuple[str, str]]:
        for field in ("matches", "excludes"):
            for name, pattern in getattr(self, field).items():
                yield f"checks.{field}.{name}", pattern

    def _check_functions(self) -> None:
        if self.python is None:
            return
        for name in self.python.functions:
            _module, colon, function = name.rpartition(":")
            if bool(colon) == (self.python.file is not None) or not function.isidentifier():
                raise UsageError(
                    f"'{name}' names no function",
                    where="checks.python.functions",
                    fix="name functions of `file`, or package.module:function without a file",
                )
