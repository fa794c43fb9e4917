"""The base class of sources of rows: its settings, and how rows are made from records.

A row is made by a format or by the templates of `columns:`. What can't be used is named, skipped or
stops the step.
"""

from array import array
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from finery import DataError, Dataset, Job, Look, Settings, Step, setting
from finery.advanced import did_you_mean
from finery.rows import Row, row_id
from finery.rows.badrow import BadRow
from finery.rows.dropped import Drops, dropped_id
from finery.rows.parts import STANDARD_COLUMNS
from finery.rows.tables.records import Record
from finery.rows.tables.values import has_bytes
from finery.rows.templates.sandbox import compile_template, render
from finery_data.sources.formats import FORMATS, Build, detect, label, tools

if TYPE_CHECKING:
    from jinja2 import Template

LISTED = 10
_REPAIR = "repair the row"
PARTS = ("system", "user", "assistant", "label")


class Columns(Settings):
    """Templates over the columns of a table, e.g. `user: "{{ text }}"`.

    A column whose name isn't a word is written `{{ row["Customer text"] }}`.
    """

    user: str = setting(help="Template of the user turn.", examples=["{{ text }}"])
    assistant: str | None = setting(None, help="Template of the answer.", examples=["{{ intent }}"])
    system: str | None = setting(
        None, help="Template of the system prompt. An empty result means no system prompt."
    )
    label: str | None = setting(None, help="Template of the label that evaluators and splits use.")


class Templates:
    """The compiled templates of `columns:`; Jinja's sandbox, so that a recipe can't run code."""

    def __init__(self, columns: Columns) -> None:
        self._templates: dict[str, Template] = {}
        for part in PARTS:
            source = getattr(columns, part)
            if source is not None:
                self._templates[part] = compile_template(source, f"columns.{part}")

    def build(self, columns: dict[str, Any], prompts_only: bool) -> Row:
        """The row of a record: `messages`, and `label` if there is a template for it."""
        turns = []
        for role in PARTS[:3]:
            content = self._render(role, columns)
            if content.strip():
                turns.append({"role": role, "content": content})
            elif role in self._templates and role != "system":
                raise BadRow(f"columns.{role} gives an empty text", "fill it in, or remove the row")
        row: Row = {"messages": turns}
        if "label" in self._templates:
            row["label"] = self._render("label", columns).strip()
            if not row["label"]:
                raise BadRow("columns.label gives an empty text", "fill it in, or remove the row")
        return row

    def _render(self, part: str, columns: dict[str, Any]) -> str:
        if part not in self._templates:
            return ""
        return render(self._templates[part], f"columns.{part}", {"row": columns, **columns})


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

    def open_records(self, job: Job) -> tuple[Iterable[Record], str, int | None]:
        """The records, what errors call their place, and the maximum number of rows."""
        raise NotImplementedError

    def run(self, job: Job) -> Dataset:
        """Write the rows; `meta` has the format, and counts of skipped and duplicate rows."""
        records, place, take = self.open_records(job)
        return Reading(self, job, place, take).write(records)

    def trace_rows(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """The place of each row with one of `ids`, including skipped ones."""
        records, place, take = self.open_records(job)
        return Reading(self, job, place, take).places(records, ids)


class Reading:
    """One run of a source: makes rows of records and counts what it meets.

    place: what errors call the place of the records. take: maximum number of rows.
    """

    def __init__(self, source: RowSource, job: Job, place: str, take: int | None) -> None:
        self._job = job
        self._place = place
        self._take = take
        self._skips = source.bad_rows == "skip"
        self._kept = source.kept()
        self._prompts_only = source.prompts_only
        self._format: str = source.format or ("columns" if source.columns else "")
        self._build: Build | None = FORMATS.get(self._format)
        if source.columns:
            self._build = Templates(source.columns).build
        self._met: dict[str, None] = {}  # columns met so far, in order
        self._records = 0
        self._made = 0
        self._bad: list[tuple[str, BadRow]] = []  # the first ten
        self._bad_count = 0
        self._reasons: set[str] = set()  # two at most
        self._fixes: set[str] = set()  # as well
        self._duplicates = _Duplicates()
        self._drops = Drops(job.out)

    def write(self, records: Iterable[Record]) -> Dataset:
        """Write the rows; raises `DataError` at the end if some were bad, or there are none."""
        with self._drops:
            dataset = Dataset.write(self._job.out, self._rows(records))
        repeated = self._duplicates.count()
        if repeated:
            self._job.log(f"{repeated:,} of {self._made:,} rows are duplicates of others")
        facts = {"format": self._format, "bad_rows": self._bad_count, "duplicates": repeated}
        dataset.meta |= facts | (self._drops.meta() if self._skips else {})
        return dataset

    def _rows(self, records: Iterable[Record]) -> Iterator[Row]:
        for _, row in self._placed(records):
            if row is not None:
                yield row
        self._finish()

    def places(self, records: Iterable[Record], ids: Collection[str]) -> Iterator[tuple[str, str]]:
        """(id, place) of each row whose id is in `ids`, including skipped rows."""
        with self._drops:
            for record, row in self._placed(records):
                name = row["id"] if row else dropped_id(record.dropped())
                if name in ids:
                    yield name, record.where

    def _placed(self, records: Iterable[Record]) -> Iterator[tuple[Record, Row | None]]:
        """Each record with its row; None if the row is bad."""
        for record in records:
            self._records += 1
            row = self._row(record)
            self._made += row is not None
            yield record, row
            if row is not None and self._made == self._take:
                break

    def _row(self, record: Record) -> Row | None:
        """The row of a record, or None after noting what is wrong with it."""
        try:
            if isinstance(record.columns, BadRow):
                raise record.columns
            if self._build is None:
                self._detect(record.where, record.columns)
            return self._built(record.columns)
        except BadRow as error:
            self._note(record, error)
            return None

    def _built(self, columns: dict[str, Any]) -> Row:
        assert self._build is not None
        self._met.update(dict.fromkeys(columns))
        row = self._build(columns, self._prompts_only)
        if self._format != "columns":
            row |= tools(columns) | ({} if "label" in row else label(columns))
        content = _hash(row)
        if kept := self._kept:
            row |= {new: _storable(old, columns) for new, old in kept.items() if old in columns}
        with_id = {"id": _hash(row) if kept else content, **row}
        self._duplicates.add(int(content, 16))
        return with_id

    def _detect(self, where: str, columns: dict[str, Any]) -> None:
        formats = detect(columns, self._prompts_only)
        seen = ", ".join(columns)
        if len(formats) > 1:
            names = " and ".join(formats)
            raise DataError(
                f"the columns fit the formats {names}: {seen}",
                where=where,
                fix=f"choose one: format: {' or '.join(formats)}",
            )
        if not formats:
            raise DataError(
                f"the columns fit no known format: {seen or 'there are none'}",
                where=where,
                fix=_format_fix(columns),
            )
        self._format = formats[0]
        self._build = FORMATS[self._format]
        self._job.log(f"format: {self._format} (from the columns {seen})")

    def _note(self, record: Record, error: BadRow) -> None:
        where = record.where
        self._bad_count += 1
        if len(self._reasons) < 2:
            self._reasons.add(error.what)
        if len(self._fixes) < 2:
            self._fixes.add(error.fix or _REPAIR)
        if len(self._bad) < LISTED:
            self._bad.append((where, error))
        if self._skips:
            self._job.log(f"skipped {where}: {error.what}")
            # Without the file's name: a file that only moves changes no output.
            self._drops.add(record.dropped(), "bad-row", f"{record.line}: {error.what}")

    def _finish(self) -> None:
        if self._bad and (not self._skips or not self._made):
            raise self._bad_rows_error()
        if not self._made:
            raise DataError("there are no rows", where=self._place, fix="add rows to it")
        if self._bad:
            self._job.log(f"skipped {self._bad_count:,} of {self._records:,} rows")
        if self._format == "preference" and "margin" in self._met:
            self._job.log("margin: no training uses it")
        self._check_kept()

    def _bad_rows_error(self) -> DataError:
        where, first = self._bad[0]
        if self._bad_count == 1:
            details = [f"1 bad row of {self._records:,}"]
        elif len(self._reasons) == 1 and self._bad_count == self._records:
            details = [f"all {self._records:,} rows are bad in the same way"]
        else:
            details = [f"{self._bad_count:,} bad rows of {self._records:,}:"]
            details += [f"{place}: {error.what}" for place, error in self._bad]
            if self._bad_count > len(self._bad):
                details.append(f"… and {self._bad_count - len(self._bad):,} more")
        skip = "" if not self._made else "or skip bad rows with bad_rows: skip"
        of_first = "" if len(self._fixes) == 1 else "the first: "
        fix = "; ".join(part for part in (of_first + (first.fix or _REPAIR), skip) if part)
        return DataError(first.what, where=where, fix=fix, details=details)

    def _check_kept(self) -> None:
        for old in self._kept.values():
            if old not in self._met:
                raise DataError(
                    f"keep: no row has a column '{old}'",
                    where=self._place,
                    fix=did_you_mean(old, self._met),
                )


def _format_fix(columns: dict[str, Any]) -> str:
    """The fix for a row whose columns fit no format."""
    if detect(columns, prompts_only=True):
        return "add an answer to each row, or write prompts_only: true to use them as prompts"
    user, assistant = columns if len(columns) == 2 else ("…", "…")
    templates = f'columns: {{user: "{{{{ {user} }}}}", assistant: "{{{{ {assistant} }}}}"}}'
    return f"write {templates}, with the column of the prompt first"


def _storable(name: str, columns: dict[str, Any]) -> Any:
    """The value of a column to keep; bytes would come out as text that says something else."""
    value = columns[name]
    if has_bytes(value):
        raise BadRow(f"keep: '{name}' holds bytes, not text", "decode it, or remove it")
    return value


def _hash(row: Row) -> str:
    """The row's id; also the check that it can be written as UTF-8 JSON without NULs."""
    try:
        content = msgspec.json.encode(row)
    except UnicodeEncodeError as error:
        raise BadRow("a text holds half of a surrogate pair", "repair its encoding") from error
    if b"\\u0000" in content and _has_nul(row):
        raise BadRow("a text holds a NUL character", "remove it")
    return row_id(row)


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(k) or _has_nul(v) for k, v in value.items())
    return isinstance(value, list) and any(_has_nul(v) for v in value)


class _Duplicates:
    """Counts repeated 64-bit hashes in eight bytes each, so that big sources fit in memory."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(256)]

    def add(self, content: int) -> None:
        """Note one hash."""
        self._buckets[content & 255].append(content)

    def count(self) -> int:
        """The number of hashes that repeat an earlier one."""
        return sum(len(bucket) - len(set(bucket)) for bucket in self._buckets)
