"""`data.filter`: keep the rows that meet conditions. The base class of steps that drop rows."""

from collections.abc import Iterator
from typing import Any, ClassVar

from finery import DataError, Dataset, Forecast, Inputs, Job, Step, UsageError, setting, takes
from finery.rows import Row
from finery.rows.badrow import BadRow
from finery.rows.conditions import conditions_of
from finery.rows.dropped import Drops
from finery.rows.parts import (
    missing_text_error,
    per_text_setting,
    read_numbered,
    row_label,
    template_variables,
    text_by_name,
)
from finery.rows.templates.sandbox import compile_expression, evaluate

REASONS = {"min_characters": "too-short", "max_characters": "too-long"}
"""Setting with conditions → the reason of dropped rows, if it isn't the setting's name."""


class RowFilter(Step, seeded=False):
    """Rows that stay as they are, without those that `kept` drops."""

    NOTHING_LEFT: ClassVar[str] = "check the steps that `rows` names"
    """What to do if no row is left."""

    rows: list[Dataset] = takes(help="Rows to clean, in this order.")

    def kept(self, job: Job, drops: Drops) -> Iterator[Row]:
        """The rows that stay; the others go to `drops`."""
        raise NotImplementedError

    def run(self, job: Job) -> Dataset:
        """Write the rows that stay, and why the others don't."""
        with Drops(job.out) as drops:
            dataset = Dataset.write(job.out, self.kept(job, drops))
        drops.refuse_nothing_left(len(dataset), self.NOTHING_LEFT)
        job.log(drops.summary(len(dataset)))
        dataset.meta |= drops.meta()
        return dataset

    def forecast(self, inputs: Inputs) -> Forecast:
        """Rows that are kept stay as they are."""
        return Forecast(passes=("rows",))


class Filter(RowFilter, packages=("jinja2",), version="1"):
    """Keep the rows that meet all conditions.

    Conditions name texts of a row: `system`, `user` (the last user turn), `assistant` (the answer),
    `chosen`, `rejected`, or any column, e.g. `label`. Rows aren't changed. If a row lacks a column
    that a condition names, the step fails instead of dropping the row; `where` can test for that
    with `name is defined`. A regular expression that takes more than ten seconds of CPU time for
    one row stops the build.
    """

    NOTHING_LEFT = "check the conditions"

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
        if not conditions_of(self) and self.where is None:
            raise UsageError(
                "data.filter has no conditions",
                fix='add one, e.g. where: label != "spam"',
            )
        if self.where is not None:
            compile_expression(self.where, "where")

    def kept(self, job: Job, drops: Drops) -> Iterator[Row]:
        """The rows that meet all conditions."""
        conditions = conditions_of(self)
        where: Any = self.where and compile_expression(self.where, "where")
        for number, row in read_numbered(job, self.rows):
            texts = [text_by_name(row, condition.name) for condition in conditions]
            for condition, text in zip(conditions, texts, strict=True):
                if text is None:
                    raise missing_text_error(condition.field, condition.name, number, row)
            try:
                if where and not evaluate(where, "where", template_variables(row)):
                    drops.add(row, "where", f"isn't {self.where}")
                    continue
                failed = (
                    (REASONS.get(condition.field, condition.field), problem)
                    for condition, text in zip(conditions, texts, strict=True)
                    if (problem := condition.problem(text or ""))
                )
                reason = next(failed, None)
            except BadRow as error:
                raise DataError(error.what, where=row_label(number, row), fix=error.fix) from error
            if reason is None:
                yield row
            else:
                drops.add(row, *reason)
