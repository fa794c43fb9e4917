"""Checks of files before they are read completely, by their first rows."""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import NoReturn

from finery import (
    DataError,
    Job,
    MemoryRecords,
    Model,
    Preflight,
    StepError,
    UsageError,
    shown,
)
from finery.rows import Row
from finery.rows.tables.records import Record, read_table, suffix_of
from finery.rows.templates.sandbox import names_in
from finery_data.sources.columns import PARTS, Columns, Templates
from finery_data.sources.formats import detect
from finery_data.sources.reading import Reading
from finery_data.sources.source import RowSource
from finery_data.steps.file import File

ROWS = 200
"""Number of rows that are read from a file."""
FILES = 20
"""Files that are looked into."""
_UNDEFINED = re.compile(r"^'(.*)' is undefined$")
MOST_BYTES = 8 * 1024 * 1024
"""Maximum size of a file that can only be read as a whole. Larger ones aren't checked."""


class SourcePreflight(Preflight[RowSource]):
    """Compiles the templates of `columns`."""

    def check_source(self, job: Job) -> None:
        """Raise `UsageError` for a template that isn't valid."""
        if self.step.columns is not None:
            Templates(self.step.columns)


class FilePreflight(Preflight[File]):
    """Reads the first rows."""

    def packages(self) -> Mapping[str, str]:
        """The packages that read Parquet and zstd."""
        names = [path.name.lower() for path in self.step.path.paths]
        parquet = any(suffix_of(name) == ".parquet" for name in names)
        zstd = any(name.endswith(".zst") for name in names)
        needed = [*(["pyarrow"] if parquet else []), *(["zstandard"] if zstd else [])]
        return dict.fromkeys(needed, "finery[data]")

    def check_source(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be used, and for templates without a column."""
        SourcePreflight(self.step).check_source(job)
        first_rows(self.step, job)


def first_rows(step: File, job: Job) -> list[Row]:
    """The first rows of the files. Raises `DataError` as `FilePreflight.check_source` does.

    With `take`, it stops when the step may have all its rows. Errors in later ones don't count.
    """
    reading = _FirstRows(step, job)
    paths = step.path.paths[:FILES]
    is_whole = len(paths) == len(step.path.paths)
    for path in paths:
        records = _first_records(step, path, job)
        reading.add(records[:ROWS])
        if reading.is_full:
            is_whole = True
            break
        if len(records) > ROWS or not _is_quick(path):
            is_whole = False
            if step.take is not None:
                break
    reading.check(is_whole=is_whole)
    return reading.rows


def _first_records(step: File, path: Path, job: Job) -> list[Record]:
    """Up to `ROWS` + 1 records of a file; none if that would require reading all of it."""
    _refuse_text(path)
    if not _is_quick(path):
        return []
    records = list(islice(read_table(path, job.scratch), ROWS + 1))
    if not records and len(step.path.paths) == 1:
        raise DataError("the file has no rows", where=shown(path), fix="add rows to it")
    if records and step.columns is not None:
        check_columns(step.columns, records[0])
    return records


def quiet_job(folder: Path) -> Job:
    """A job for reading rows outside of a build. folder: an empty one."""

    def no_engine(model: Model) -> NoReturn:
        raise StepError("an engine isn't available while rows are read", fix="run the step instead")

    return Job(
        out=folder,
        scratch=folder / "scratch",
        seed=None,
        report=lambda event: None,
        records=MemoryRecords(),
        find_engine=no_engine,
        secrets={},
    )


class _FirstRows(Reading):
    """Rows made of some records; nothing is written."""

    def __init__(self, step: File, job: Job) -> None:
        self._skips = step.bad_rows == "skip"
        super().__init__(step.shape(step.take)._replace(skip=False), job, shown(step.path.paths[0]))
        self.rows: list[Row] = []

    @property
    def is_full(self) -> bool:
        """Whether these are all rows that the step takes."""
        return self._made == self._shape.take

    def add(self, records: Iterable[Record]) -> None:
        """Make rows of these records."""
        self.rows += [row for _, row in self._placed(records) if row is not None]

    def check(self, *, is_whole: bool) -> None:
        """Raise `DataError` if the step would. is_whole: whether there are no more records."""
        if self._bad and (not self._skips or (is_whole and not self._made)):
            raise self._at_setting(self._bad_rows_error(), is_whole=is_whole)
        if is_whole and self._records and not self._bad:
            self._check_kept()

    def _at_setting(self, error: DataError, *, is_whole: bool) -> DataError:
        """The error at the template that fails for all rows; else at the first bad row."""
        part = re.match(r"columns\.\w+(?=: )", error.what)
        if not is_whole:
            error.details.append(f"found in the first {self._records:,} rows")
        if part and self._bad_count == self._records and len(self._reasons) == 1:
            what = _UNDEFINED.sub(r"there is no column '\1'", error.what[part.end() + 2 :])
            known = detect(self._met, prompts_only=False)
            fix = f"remove columns: the rows have the format {known[0]}" if known else error.fix
            details = [f"in {error.where}, as in all other rows"]
            return DataError(what, where=part.group(), fix=fix, details=details)
        return error


def check_columns(columns: Columns, record: Record) -> None:
    """Raise `UsageError` for a template that has a column's name as plain text.

    A system prompt may: it is often the same in every row.
    """
    if not isinstance(record.columns, dict):
        return
    for part in (part for part in PARTS if part != "system"):
        template = getattr(columns, part)
        if template is None or names_in(template):
            continue
        for column in record.columns:
            meant = _meant(template, column)
            if meant is not None:
                raise UsageError(
                    f"columns.{part} has no {{{{ }}}}, so it is the same text in every row",
                    where=f"columns.{part}",
                    fix=f'write {part}: "{meant}"',
                )


def _meant(template: str, column: str) -> str | None:
    """The template with a column's name as Jinja writes it; None if the name isn't in it."""
    name = re.escape(column)
    written = column if column.isidentifier() and column.isascii() else f"row['{column}']"
    braces = "{{ " + written + " }}"
    if re.fullmatch(rf"[<\[$%]?(?:row\.)?{name}[>\]%]?", template.strip(), re.IGNORECASE):
        return braces
    pattern = rf"\$?\{{\s*(?:row\.)?{name}\s*\}}|%\({name}\)s"
    changed, count = re.subn(pattern, lambda _: braces, template, flags=re.IGNORECASE)
    return changed if count else None


def _refuse_text(path: Path) -> None:
    """Raise `DataError` for plain text, in more fitting words than those for unknown tables."""
    if suffix_of(path.name) in (".txt", ".md", ".rst", ".html", ".pdf"):
        raise DataError(
            "the file holds text, not rows",
            where=shown(path),
            fix="for rows with answers, write a table such as .csv or .jsonl; docs.files makes "
            "rows of text, to generate questions from",
        )


def _is_quick(path: Path) -> bool:
    """Whether the first rows of a file can be read without the rest."""
    return suffix_of(path.name) != ".json" or path.stat().st_size <= MOST_BYTES
