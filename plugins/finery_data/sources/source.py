"""The settings of every source of rows: how rows are made from records."""

from collections.abc import Collection, Iterable, Iterator
from typing import Literal

from finery import Dataset, Job, Look, Step, setting
from finery.rows.parts import STANDARD_COLUMNS
from finery.rows.tables.records import Record
from finery_data.sources.reading import Columns, Reading, Shape, Templates


class RowSource(Step, seeded=False, packages=("jinja2",)):
    """Records of a table, each made into a row.

    Either `format` names a known set of columns, or `columns` builds each row from templates over
    the columns of any table. Without them, the format is recognised by the columns if only one
    format fits.
    """

    format: (
        Literal["alpaca", "sharegpt", "messages", "completion", "preference", "rating"] | None
    ) = setting(
        None,
        help="A known set of columns: alpaca (instruction, input, output), sharegpt "
        "(conversations), messages (OpenAI), completion (prompt, completion), preference (prompt, "
        "chosen, rejected), rating (prompt, completion, label: true or 1, false or 0).",
    )
    columns: Columns | None = setting(
        None,
        help="Templates over the columns, instead of a format: system, user, assistant, label. "
        "Rows keep no other columns; to keep some, name them in `keep`.",
        examples=[{"user": "{{ text }}", "assistant": "{{ intent }}"}],
    )
    keep: list[str] | dict[str, str] = setting(
        [],
        help="More columns to keep in the rows: a list of names, or new name: name in the source.",
    )
    prompts_only: bool = setting(
        False, help="The rows are prompts without answers, e.g. to generate from."
    )
    bad_rows: Literal["error", "skip"] = setting(
        "error", help="What to do with rows that can't be used: stop, or log them and go on."
    )

    def __post_init__(self) -> None:
        if self.format and self.columns:
            raise ValueError("`format` and `columns` exclude each other: leave one out")
        if self.columns and not self.columns.assistant and not self.prompts_only:
            raise ValueError(
                "`columns` has no template for the assistant turn: add `assistant`, or set "
                "`prompts_only: true` if the rows are prompts"
            )
        if self.columns and self.columns.assistant and self.prompts_only:
            raise ValueError("`prompts_only` is set and `columns` has an assistant turn: drop one")
        if self.format in ("preference", "rating") and self.prompts_only:
            raise ValueError(f"rows of format {self.format} have answers: drop `prompts_only`")
        if self.columns and self.columns.label and "label" in self.kept():
            raise ValueError("`columns` and `keep` both make a label: leave one out")
        for name in self.kept():
            if name in STANDARD_COLUMNS:
                raise ValueError(
                    f"a kept column can't be named '{name}', which means something else in a row: "
                    f"give it another name, e.g. `keep: {{source_{name}: {name}}}`"
                )

    def examine(self, look: Look) -> None:
        """Raise `UsageError` for a template of `columns` that isn't valid."""
        if self.columns is not None:
            Templates(self.columns)

    def kept(self) -> dict[str, str]:
        """Name in the row → name in the source of each column that `keep` names."""
        return dict(self.keep) if isinstance(self.keep, dict) else {n: n for n in self.keep}

    def written(
        self, job: Job, records: Iterable[Record], place: str, *, take: int | None = None
    ) -> Dataset:
        """Write the rows of some records into `job.out`.

        place: how errors call what holds them. take: only so many rows. `meta` has the format, and
        counts of skipped and duplicate rows.
        """
        return Reading(self.shape(take), job, place).write(records)

    def placed(
        self,
        ids: Collection[str],
        job: Job,
        records: Iterable[Record],
        place: str,
        *,
        take: int | None = None,
    ) -> Iterator[tuple[str, str]]:
        """(id, place) of those of the rows that have one of `ids`; for `trace`."""
        return Reading(self.shape(take), job, place).places(records, ids)

    def shape(self, take: int | None) -> Shape:
        """The conversion of records to rows. take: maximum number of rows."""
        return Shape(
            format=self.format or "",
            columns=self.columns,
            kept=self.kept(),
            prompts_only=self.prompts_only,
            skip=self.bad_rows == "skip",
            take=take,
        )
