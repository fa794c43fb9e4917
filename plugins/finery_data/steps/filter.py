"""`data.filter`: keep the rows that meet conditions."""

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from finery import DataError, Dataset, Forecast, Inputs, Job, Step, UsageError, setting, takes
from finery.rows import Row
from finery.rows.badrow import BadRow
from finery.rows.dropped import Drops
from finery.rows.parts import (
    check_lengths,
    missing_text_error,
    per_text_setting,
    read_numbered,
    row_label,
    template_variables,
    text_by_name,
)
from finery.rows.templates.limits import search
from finery.rows.templates.sandbox import compile_expression, evaluate

Texts = dict[str, str]
Condition = Callable[[Row, Texts], tuple[str, str] | None]
"""(row, its texts) → (reason, detail) for dropping it; None to keep it."""


class Filter(Step, seeded=False, packages=("jinja2",), version="1"):
    """Keep the rows that meet all conditions.

    Conditions name texts of a row: `system`, `user` (the last user turn), `assistant` (the answer),
    `chosen`, `rejected`, or any column, e.g. `label`. Rows aren't changed. If a row lacks a column
    that a condition names, the step fails instead of dropping the row; `where` can test for that
    with `name is defined`. A regular expression that takes more than ten seconds of CPU time for
    one row stops the build.
    """

    rows: list[Dataset] = takes(help="Rows to choose from, in this order.")
    where: str | None = setting(
        None,
        help="A Jinja expression over the row's texts and columns that must be true.",
        examples=['label != "spam" and user | length > 20'],
    )
    matches: dict[str, str] = per_text_setting(
        "regular expression that must match somewhere in it", {"assistant": "^category: "}
    )
    excludes: dict[str, str] = per_text_setting(
        "regular expression that must not match in it", {"user": "(?i)lorem ipsum"}
    )
    min_characters: dict[str, int] = per_text_setting(
        "minimum number of characters", {"assistant": 20}
    )
    max_characters: dict[str, int] = per_text_setting(
        "maximum number of characters", {"user": 4000}
    )

    def check(self) -> None:
        """Raise `UsageError` for conditions that can't be read, or none at all."""
        if not self._conditions():
            raise UsageError(
                "data.filter has no conditions",
                fix='add one, e.g. where: label != "spam"',
            )
        check_lengths(self.min_characters, self.max_characters)

    def run(self, job: Job) -> Dataset:
        """Write the rows that stay, and why the others don't."""
        with Drops(job.out) as drops:
            dataset = Dataset.write(job.out, self._kept(job, drops))
        drops.refuse_nothing_left(len(dataset), "check the conditions")
        job.log(drops.summary(len(dataset)))
        dataset.meta |= drops.meta()
        return dataset

    def _kept(self, job: Job, drops: Drops) -> Iterator[Row]:
        conditions = self._conditions()
        for number, row in read_numbered(job, self.rows):
            failed = self._failed(conditions, number, row)
            if failed is None:
                yield row
            else:
                drops.add(row, *failed)

    def _failed(self, conditions: list[Condition], number: int, row: Row) -> tuple[str, str] | None:
        texts: Texts = {}
        for field in ("matches", "excludes", "min_characters", "max_characters"):
            for name in getattr(self, field):
                text = text_by_name(row, name)
                if text is None:
                    raise missing_text_error(field, name, number, row)
                texts[name] = text
        try:
            return next((why for test in conditions if (why := test(row, texts))), None)
        except BadRow as error:
            raise DataError(error.what, where=row_label(number, row), fix=error.fix) from error

    def _conditions(self) -> list[Condition]:
        conditions = [_expression(self.where)] if self.where is not None else []
        conditions += [_pattern("matches", n, p, wanted=True) for n, p in self.matches.items()]
        conditions += [_pattern("excludes", n, p, wanted=False) for n, p in self.excludes.items()]
        conditions += [_length(name, n, math.inf) for name, n in self.min_characters.items()]
        conditions += [_length(name, 0, n) for name, n in self.max_characters.items()]
        return conditions

    def forecast(self, inputs: Inputs) -> Forecast:
        """Rows that are kept stay as they are."""
        return Forecast(passes=("rows",))


def _expression(source: str) -> Condition:
    compiled: Any = compile_expression(source, "where")

    def test(row: Row, _: Texts) -> tuple[str, str] | None:
        true = evaluate(compiled, "where", template_variables(row))
        return None if true else ("where", f"isn't {source}")

    return test


def _pattern(field: str, name: str, pattern: str, *, wanted: bool) -> Condition:
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError) as error:
        raise UsageError(
            f"not a regular expression: {error}", where=f"{field}.{name}", fix="correct it"
        ) from None

    def test(_: Row, texts: Texts) -> tuple[str, str] | None:
        match = search(compiled, texts[name], f"{field}.{name}")
        if bool(match) == wanted:
            return None
        if match is None:
            return field, f"{name} has no match of {pattern}"
        return field, f"{name} has a match of {pattern}: {match[0][:60]!r}"

    return test


def _length(name: str, least: int, most: float) -> Condition:
    def test(_: Row, texts: Texts) -> tuple[str, str] | None:
        length = len(texts[name])
        if length < least:
            return "too-short", f"{name} has {length:,} characters, fewer than {least:,}"
        if length > most:
            return "too-long", f"{name} has {length:,} characters, more than {most:,}"
        return None

    return test
