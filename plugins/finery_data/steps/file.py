"""`data.file`: rows from files of any common format, and what is known of them before it runs."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

from finery import (
    Count,
    DataError,
    Files,
    Forecast,
    Inputs,
    Job,
    Look,
    Resources,
    UsageError,
    setting,
)
from finery.advanced import did_you_mean, shown
from finery.rows import Row
from finery.rows.badrow import BadRow
from finery.rows.parts import STANDARD_COLUMNS
from finery.rows.tables.records import DELIMITED_SUFFIXES, Record, data_suffix, read_table
from finery.rows.tables.streams import UTF_8
from finery.rows.templates.sandbox import template_names
from finery_data.sources.formats import FORMATS, detect, label, tools
from finery_data.sources.source import PARTS, Columns, Reading, RowSource, Templates

PROGRESS_EVERY = 5_000
SAMPLED = (".jsonl", ".json", ".csv", ".tsv")
"""Endings of files that are sampled before a build."""
MADE = 1_000
"""Rows of a sample that are made as the step makes them."""
ROWS = 1_000
"""Rows that are read of a file before a build."""
FILES = 20
"""Files that are looked into before a build."""
_LETTERS = "\néĀ¥٪я中한あ"
"""A line break, and letters of several scripts. An encoding that writes one of them in bytes of
ASCII, such as ISO-2022-JP, has lines that fit other encodings, too, as another text."""
_UNDEFINED = re.compile(r"^'(.*)' is undefined$")
MOST_BYTES = 8 * 1024 * 1024
"""Larger files that can only be read whole aren't looked into."""
MOST_COUNTED = 256 * 1024 * 1024
"""Larger files, in bytes, aren't counted before they are built: a plan is to be quick."""


class File(RowSource, version="1"):
    """Rows from JSON lines, JSON, CSV, TSV or Parquet files, plain or as .gz or .zst.

    Several files are read one after the other. Either `format` names a known set of columns, or
    `columns` builds each row from templates over the columns of any table. Without them, the
    format is recognised by the columns if only one format fits.
    """

    path: Files = setting(help="File, glob or list of them, relative to the recipe.")
    take: int | None = setting(None, ge=1, help="Read only the first `take` rows.")
    encoding: str | list[str] = setting(
        UTF_8,
        help="Encoding of text files. With a list, each line is read in the first that fits, e.g. "
        "in a file whose lines come from several programs. Parquet files have none.",
        examples=["cp1252", ["utf-8", "cp1252"]],
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.encodings():
            try:
                coded = [c for letter in _LETTERS if (c := letter.encode(name, "ignore")).isascii()]
                is_alone = coded[:1] != [b"\n"] or any(c.decode(name) != c.decode() for c in coded)
            except (LookupError, ValueError):
                fix = did_you_mean(name, ("utf-8", "cp1252", "latin-1", "utf-16", "cp1250"))
                what = f"there is no text encoding {name!r} for `encoding`"
                raise ValueError(f"{what}: {fix}") from None
            if is_alone and len(self.encodings()) > 1:
                what = f"a file in {name} has no lines in other encodings"
                raise ValueError(f"{what}: name only one in `encoding`")
        if not self.encodings():
            raise ValueError("`encoding` is empty: write `encoding: utf-8`")

    def examine(self, look: Look) -> None:
        """Raise `DataError` for rows that can't be used, and for templates without a column."""
        super().examine(look)
        first_rows(self, look.job)

    def encodings(self) -> list[str]:
        """The encodings of the files, one for all lines or several for different ones."""
        return [self.encoding] if isinstance(self.encoding, str) else self.encoding

    def open_records(self, job: Job) -> tuple[Iterable[Record], str, int | None]:
        """The records of all files, which the first one stands for."""
        return read_records(self, job), shown(self.path.paths[0]), self.take

    def resources(self) -> Resources:
        """What reads Parquet and zstd."""
        names = [path.name.lower() for path in self.path.paths]
        parquet = any(data_suffix(name) == ".parquet" for name in names)
        zstd = any(name.endswith(".zst") for name in names)
        needed = [*(["pyarrow"] if parquet else []), *(["zstandard"] if zstd else [])]
        return Resources(packages=dict.fromkeys(needed, "finery[data]"))

    def forecast(self, inputs: Inputs) -> Forecast:
        """The lines of plain JSON lines are counted; any other file takes reading."""
        return Forecast(rows=self._count, sample=self._sample, columns=self._columns)

    def _count(self) -> Count | None:
        """The number of lines: about that many rows, since some may be skipped."""
        paths = self.path.paths
        if any(path.suffix != ".jsonl" or path.stat().st_size > MOST_COUNTED for path in paths):
            return None
        lines = sum(_count_lines(path, path.stat().st_mtime_ns) for path in paths)
        return Count(min(lines, self.take or lines), exact=False)

    def _sample(self) -> Iterable[Row] | None:
        """The first rows as the step makes them, and further records as the file has them.

        None for files that can only be read whole, or with a package.
        """
        paths = self.path.paths
        if not all(_is_quick(path) and path.suffix in SAMPLED for path in paths):
            return None
        records = chain.from_iterable(_records(path, self.encodings()) for path in paths)
        return chain(self._made(islice(records, MADE)), records)

    def _made(self, records: Iterable[Row]) -> Iterator[Row]:
        """Rows of records, without ids. A record that no row can be made of stays as it is."""
        templates = Templates(self.columns) if self.columns else None
        for record in records:
            name = self.format or "".join(detect(record, self.prompts_only))  # unless several fit
            build = FORMATS.get(name) if templates is None else templates.build
            try:
                row = build(record, self.prompts_only) if build else record
            except BadRow:
                row = record
            own = {new: record[old] for new, old in self.kept().items() if old in record}
            own |= {} if templates or "label" in row else label(record)
            yield row | own | ({} if templates else tools(record))

    def _columns(self) -> Collection[str] | None:
        """Those of every row, and those that `keep` names; None if a kept label may have fields."""
        names, columns = self.kept(), self.columns
        if "label" in names:
            return None
        label = () if columns is not None and columns.label is None else ("label",)
        return {*STANDARD_COLUMNS, *label, *names}


def read_records(step: File, job: Job) -> Iterator[Record]:
    """The records of a step's files, one file after the other, with the job's progress."""
    paths, total = step.path.paths, 0
    for index, path in enumerate(paths):
        before = total
        for record in read_table(path, job.scratch, step.encodings()):
            if (total - before) % PROGRESS_EVERY == 0:
                job.progress(index, len(paths), f"{total:,} rows")
            total += 1
            yield record
        if total == before:
            if len(paths) == 1:
                raise DataError("the file has no rows", where=shown(path), fix="add rows to it")
            job.log(f"warning: {shown(path)} has no rows")
    job.progress(len(paths), len(paths), f"{total:,} rows")
    if not total:
        raise DataError("the files have no rows", where=shown(paths[0]), fix="add rows to them")


# -- how many rows there will be -------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _count_lines(path: Path, changed: int) -> int:
    """Lines that aren't empty. changed: when the file was; several steps may take one file."""
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _records(path: Path, encodings: Sequence[str]) -> Iterator[Row]:
    """The records that are objects; the step itself reports those that aren't."""
    with suppress(DataError):
        records = (record.columns for record in read_table(path, path.parent, encodings))
        yield from (columns for columns in records if isinstance(columns, dict))


# -- the first rows, read before a build -----------------------------------------------------------


def first_rows(step: File, job: Job) -> list[Row]:
    """The first rows of the files; raises `DataError` as `File.examine` does.

    With `take`, it ends where the step may have all its rows: an error in later ones isn't one.
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
    """Up to `ROWS` + 1 records of a file; none if it would be read whole for them."""
    if data_suffix(path.name) in (".txt", ".md", ".rst", ".html", ".pdf"):
        raise DataError(
            "the file holds text, not rows",
            where=shown(path),
            fix="for rows with answers, write a table such as .csv or .jsonl; docs.files makes "
            "rows of text, to generate questions from",
        )
    if not _is_quick(path):
        return []
    records = list(islice(read_table(path, job.scratch, step.encodings()), ROWS + 1))
    if not records and len(step.path.paths) == 1:
        raise DataError("the file has no rows", where=shown(path), fix="add rows to it")
    if records and step.columns is not None:
        check_columns(step.columns, records[0])
    return records


class _FirstRows(Reading):
    """Rows made of some records; nothing is written."""

    def __init__(self, step: File, job: Job) -> None:
        super().__init__(step, job, shown(step.path.paths[0]), step.take)
        self._may_skip, self._skips = self._skips, False
        self.rows: list[Row] = []
        suffixes = {data_suffix(path.name) for path in step.path.paths}
        self._have_header = suffixes <= {*DELIMITED_SUFFIXES, ".parquet"} and (
            len(step.path.paths) <= FILES
        )

    @property
    def is_full(self) -> bool:
        """Whether these are all rows that the step takes."""
        return self._made == self._take

    def add(self, records: Iterable[Record]) -> None:
        """Make rows of these records."""
        self.rows += [row for _, row in self._placed(records) if row is not None]

    def check(self, *, is_whole: bool) -> None:
        """Raise `DataError` where the step would. is_whole: whether there are no more records."""
        # If no row can be used for the same reason, a setting is wrong, not the rows.
        is_useless = not self._made and (is_whole or len(self._reasons) == 1)
        if self._bad and (not self._may_skip or is_useless):
            raise self._at_setting(self._bad_rows_error(), is_whole=is_whole)
        if self._met and (is_whole or self._have_header):
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
        if template is None or template_names(template):
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


def _is_quick(path: Path) -> bool:
    """Whether the first rows of a file can be read without the rest."""
    return data_suffix(path.name) != ".json" or path.stat().st_size <= MOST_BYTES
