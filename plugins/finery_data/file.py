"""`data.file`: rows from files of any common format."""

from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from finery import DataError, Dataset, Files, Job, Step, setting
from finery.drops import Drops, dropped_id
from finery.errors import did_you_mean
from finery.rows import Row, row_id
from finery_data.badrow import BadRow
from finery_data.columns import Columns, Templates
from finery_data.formats import FORMATS, Build, detect, label, tools
from finery_data.streams import shown
from finery_data.tables import Record, read_table

OWN_COLUMNS = frozenset(
    {"id", "parents", "messages", "prompt", "completion", "chosen", "rejected", "tools"}
)
"""Columns with a meaning of their own in a `Dataset`."""
LISTED = 10
PROGRESS_EVERY = 5_000


class File(Step, seeded=False, packages=("jinja2",), version="1"):
    """Rows from JSON lines, JSON, CSV, TSV or Parquet files, plain or as .gz or .zst.

    Several files are read one after the other. Either `format` names a known set of columns, or
    `columns` builds each row from templates over the columns of any table; with neither, the
    format is recognised by the columns where only one fits.
    """

    path: Files = setting(help="File, glob or list of them, relative to the recipe.")
    format: (
        Literal["alpaca", "sharegpt", "messages", "completion", "preference", "rating"] | None
    ) = setting(
        None,
        help="What the columns are: alpaca (instruction, input, output), sharegpt (conversations), "
        "messages (OpenAI), completion (prompt, completion), preference (prompt, chosen, "
        "rejected), rating (prompt, completion, label: true or false).",
    )
    columns: Columns | None = setting(
        None,
        help="Templates over the columns instead of a format: system, user, assistant, label.",
        examples=[{"user": "{{ text }}", "assistant": "{{ intent }}"}],
    )
    keep: list[str] | dict[str, str] = setting(
        [],
        help="More columns to keep in the rows: a list of names, or new name: name in the file.",
    )
    prompts_only: bool = setting(
        False, help="The rows are prompts without answers, e.g. to generate from."
    )
    take: int | None = setting(None, ge=1, help="Only the first so many rows.")
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
            if name in OWN_COLUMNS:
                raise ValueError(
                    f"a kept column can't be named '{name}', which means something else in a row: "
                    f"give it another name, e.g. `keep: {{source_{name}: {name}}}`"
                )

    def kept(self) -> dict[str, str]:
        """Name in the row → name in the file of each column that `keep` names."""
        return dict(self.keep) if isinstance(self.keep, dict) else {n: n for n in self.keep}

    def run(self, job: Job) -> Dataset:
        """Write the rows; `meta` has the format, and counts of skipped and duplicate rows."""
        reading = _Reading(self, job)
        with reading.drops:
            made = Dataset.write(job.out, reading.rows())
        made.meta |= reading.meta()
        return made

    def trace(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """File and line of each row with one of `ids`, skipped ones too."""
        reading = _Reading(self, job)
        with reading.drops:
            for record, row in reading.placed():
                found = row["id"] if row else dropped_id(record.dropped())
                if found in ids:
                    yield found, record.where


class _Reading:
    """One run of `data.file`: makes rows of records and counts what it meets."""

    def __init__(self, step: File, job: Job) -> None:
        self.step = step
        self.job = job
        self.format: str = step.format or ("columns" if step.columns else "")
        self.build: Build | None = FORMATS.get(self.format)
        if step.columns:
            self.build = Templates(step.columns).build
        self.kept = step.kept()
        self.met: dict[str, None] = {}  # columns met so far, in order
        self.records = 0
        self.made = 0
        self.bad: list[tuple[str, BadRow]] = []  # the first ten
        self.bad_count = 0
        self.reasons: set[str] = set()  # two at most
        self.duplicates = _Duplicates()
        self.drops = Drops(job.out)

    def rows(self) -> Iterator[Row]:
        """The rows of all files; raises `DataError` at the end if some were bad."""
        for _, row in self.placed():
            if row is not None:
                yield row
        self._finish()

    def placed(self) -> Iterator[tuple[Record, Row | None]]:
        """Each record with its row, None where it is bad."""
        for record in self._all_records():
            self.records += 1
            row = self._row(record)
            self.made += row is not None
            yield record, row
            if self.made == self.step.take:
                break

    def meta(self) -> dict[str, Any]:
        """Facts about the rows. No names of files: they aren't part of the key."""
        repeated = self.duplicates.count()
        if repeated:
            self.job.log(f"{repeated:,} of {self.made:,} rows are duplicates of others")
        found = {"format": self.format, "bad_rows": self.bad_count, "duplicates": repeated}
        return found | (self.drops.meta() if self.step.bad_rows == "skip" else {})

    def _all_records(self) -> Iterator[Record]:
        paths = self.step.path.paths
        for index, path in enumerate(paths):
            before = self.records
            for record in read_table(path, self.job.scratch):
                if (self.records - before) % PROGRESS_EVERY == 0:
                    self.job.progress(index, len(paths), f"{self.records:,} rows")
                yield record
            if self.records == before:
                self._report_empty(path)
        self.job.progress(len(paths), len(paths), f"{self.records:,} rows")

    def _report_empty(self, path: Path) -> None:
        if len(self.step.path.paths) == 1:
            raise DataError("the file has no rows", where=shown(path), fix="put rows in it")
        self.job.log(f"warning: {shown(path)} has no rows")

    def _row(self, record: Record) -> Row | None:
        """The row of a record, or None after noting what is wrong with it."""
        try:
            if isinstance(record.columns, BadRow):
                raise record.columns
            if self.build is None:
                self._detect(record.where, record.columns)
            return self._built(record.columns)
        except BadRow as error:
            self._note(record, error)
            return None

    def _built(self, columns: dict[str, Any]) -> Row:
        assert self.build is not None
        self.met.update(dict.fromkeys(columns))
        row = self.build(columns, self.step.prompts_only)
        if self.format != "columns":
            row |= tools(columns) | label(columns)
        content = _hash(row)
        if self.kept:
            row |= {new: columns[old] for new, old in self.kept.items() if old in columns}
        made = {"id": _hash(row) if self.kept else content, **row}
        self.duplicates.add(int(content, 16))
        return made

    def _detect(self, where: str, columns: dict[str, Any]) -> None:
        found = detect(columns, self.step.prompts_only)
        seen = ", ".join(columns)
        if len(found) > 1:
            names = " and ".join(found)
            raise DataError(
                f"the columns fit the formats {names}: {seen}",
                where=where,
                fix=f"say which: format: {' or '.join(found)}",
            )
        if not found:
            raise DataError(
                f"the columns fit no known format: {seen or 'there are none'}",
                where=where,
                fix='say how to make rows of them: columns: {user: "{{ … }}", assistant: '
                f'"{{{{ … }}}}"}}, or format: one of {", ".join(FORMATS)}',
            )
        self.format = found[0]
        self.build = FORMATS[self.format]
        self.job.log(f"format: {self.format} (from the columns {seen})")

    def _note(self, record: Record, error: BadRow) -> None:
        where = record.where
        self.bad_count += 1
        if len(self.reasons) < 2:
            self.reasons.add(error.what)
        if len(self.bad) < LISTED:
            self.bad.append((where, error))
        if self.step.bad_rows == "skip":
            self.job.log(f"skipped {where}: {error.what}")
            # The record's number, not its line: a file that only moves changes no output.
            self.drops.add(record.dropped(), "bad-row", f"record {self.records}: {error.what}")

    def _finish(self) -> None:
        if self.bad and (self.step.bad_rows == "error" or not self.made):
            raise self._bad_rows_error()
        if not self.made:
            paths = self.step.path.paths
            raise DataError("the files have no rows", where=shown(paths[0]), fix="put rows in them")
        if self.bad:
            self.job.log(f"skipped {self.bad_count:,} of {self.records:,} rows")
        self._check_kept()

    def _bad_rows_error(self) -> DataError:
        where, first = self.bad[0]
        if self.bad_count == 1:
            details = [f"1 bad row of {self.records:,}"]
        elif len(self.reasons) == 1 and self.bad_count == self.records:
            details = [f"all {self.records:,} rows are bad in the same way"]
        else:
            details = [f"{self.bad_count:,} bad rows of {self.records:,}:"]
            details += [f"{place}: {error.what}" for place, error in self.bad]
            if self.bad_count > len(self.bad):
                details.append(f"… and {self.bad_count - len(self.bad):,} more")
        skip = "" if not self.made else "or leave bad rows out with bad_rows: skip"
        fix = "; ".join(part for part in (first.fix or "repair the row", skip) if part)
        return DataError(first.what, where=where, fix=fix, details=details)

    def _check_kept(self) -> None:
        for old in self.kept.values():
            if old not in self.met:
                raise DataError(
                    f"keep: no row has a column '{old}'",
                    where=shown(self.step.path.paths[0]),
                    fix=did_you_mean(old, self.met),
                )


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
    """Counts repeated 64-bit hashes in eight bytes each, so that big files fit in memory."""

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(256)]

    def add(self, content: int) -> None:
        """Note one hash."""
        self._buckets[content & 255].append(content)

    def count(self) -> int:
        """How many of the hashes repeat an earlier one."""
        return sum(len(bucket) - len(set(bucket)) for bucket in self._buckets)
