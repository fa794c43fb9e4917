"""`data.file`: rows from files of any common format."""

from collections.abc import Iterator
from pathlib import Path

from finery import DataError, Dataset, Files, Job, setting, shown
from finery.rows.tables.records import Record, read_table
from finery_data.sources.source import RowSource

PROGRESS_EVERY = 5_000


class File(
    RowSource,
    version="1",
    traceable="finery_data.places:FilePlaces",
    forecast="finery_data.forecasts:FileForecast",
    preflight="finery_data.preflight:FilePreflight",
):
    """Rows from JSON lines, JSON, CSV, TSV or Parquet files, plain or as .gz or .zst.

    Several files are read one after the other. Either `format` names a known set of columns, or
    `columns` builds each row from templates over the columns of any table. Without them, the
    format is recognised by the columns if only one format fits.
    """

    path: Files = setting(help="File, glob or list of them, relative to the recipe.")
    take: int | None = setting(None, ge=1, help="Read only the first `take` rows.")

    def run(self, job: Job) -> Dataset:
        """Write the rows; `meta` has the format, and counts of skipped and duplicate rows."""
        records = read_records(self.path.paths, job)
        return self.written(job, records, shown(self.path.paths[0]), take=self.take)


def read_records(paths: list[Path], job: Job) -> Iterator[Record]:
    """The records of some files, one file after the other, with the job's progress."""
    total = 0
    for index, path in enumerate(paths):
        before = total
        for record in read_table(path, job.scratch):
            if (total - before) % PROGRESS_EVERY == 0:
                job.progress(index, len(paths), f"{total:,} rows")
            total += 1
            yield record
        if total == before:
            _report_empty(path, job, alone=len(paths) == 1)
    job.progress(len(paths), len(paths), f"{total:,} rows")
    if not total:
        raise DataError("the files have no rows", where=shown(paths[0]), fix="add rows to them")


def _report_empty(path: Path, job: Job, *, alone: bool) -> None:
    if alone:
        raise DataError("the file has no rows", where=shown(path), fix="add rows to it")
    job.log(f"warning: {shown(path)} has no rows")
