"""`sql.query`: rows of a SQL query."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from finery import (
    DataError,
    File,
    FineryError,
    Inputs,
    Job,
    Key,
    Look,
    Note,
    Resources,
    StepError,
    UsageError,
    setting,
)
from finery.advanced import About, did_you_mean, shown
from finery.rows.tables.records import Record
from finery_data.sources.source import RowSource
from finery_sql.database import NOT_CODE, Database, check_journal, journal_of
from finery_sql.snapshot import keep, pinned_as, read

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PROGRESS_EVERY = 5_000
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
"""As SQLAlchemy reads them, so that `::date` and `10:30` are none."""
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)
_PARENTHESIS = re.compile(r"([()])")


def trimmed(query: str) -> str:
    """The query without what ends it: a driver's cursor takes a single statement."""
    return query.strip().rstrip("; \t\r\n")


def parameters(query: str) -> list[str]:
    """The names of the parameters (`:name`) in a query, each once."""
    return list(dict.fromkeys(_PARAMETER.findall(query)))


def is_ordered(query: str) -> bool:
    """Whether the outermost query, not only a part in parentheses, has an ORDER BY."""
    code = NOT_CODE.sub(" ", query)
    outside, depth = list[str](), 0
    for part in _PARENTHESIS.split(code):
        if part in ("(", ")"):
            depth = max(0, depth + (1 if part == "(" else -1))
            outside.append(" ")
        elif depth == 0:
            outside.append(part)
    return bool(_ORDER.search("".join(outside)))


class SqlQuery(
    RowSource,
    version="1",
    installs={"sqlalchemy": "finery[sql]"},
):
    """Rows from a query to an SQL database, through SQLAlchemy.

    A database isn't a file, so the result is pinned: the first build runs the query, records the
    number of rows and their digest in `recipe.lock`, and keeps the rows in the store. From then on
    these are the rows, even if the database changes; a change of `columns` or `format` doesn't
    query it again. `finery build --update-lock` runs the query again; if the rows are the same,
    nothing else runs. If the kept rows are missing, as on another machine, the query runs again,
    and the build stops if the result differs. A SQLite file under `path` needs no pin, because it
    is a file.

    Rows are made from the columns as in `data.file`. Dates and times become ISO 8601 text (in UTC
    if they have a time zone), decimals the text of their digits, JSON columns objects and lists,
    and NULL becomes null. The query can't change a database that supports read-only transactions
    (PostgreSQL, SQLite, MySQL). Its result is streamed.
    """

    url: str | None = setting(
        None,
        help="Name of the environment variable with the database's URL, as SQLAlchemy writes it: "
        "postgresql://user:password@host/database.",
        examples=["DATABASE_URL"],
    )
    path: File | None = setting(None, help="Instead of `url`: a SQLite file.")
    query: str | None = setting(
        None, help="The query; `:name` is a parameter.", examples=["SELECT * FROM t ORDER BY id"]
    )
    query_file: File | None = setting(None, help="Instead of `query`: a file with it.")
    params: dict[str, str | int | float | bool | None] = setting(
        {}, help="Values of the query's parameters.", examples=[{"since": "2026-01-01"}]
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together, and for a URL in the recipe."""
        for one, other in (("url", "path"), ("query", "query_file")):
            named = [name for name in (one, other) if getattr(self, name) is not None]
            if len(named) != 1:
                what = f"`{one}` and `{other}` exclude each other" if named else "one is missing"
                raise UsageError(
                    f"{what}: {one} or {other}", where=one, fix=f"write either {one} or {other}"
                )
        if self.url is not None and not NAME.fullmatch(self.url):
            raise UsageError(
                "url must be the name of an environment variable, because a URL may contain a "
                "password, which must not be in a recipe",
                where="url",
                fix="export DATABASE_URL=…, and write url: DATABASE_URL; for a SQLite file: path",
            )
        if self.query is not None:
            self._check_parameters(self.query, "query")

    def examine(self, look: Look) -> None:
        """Also raise `UsageError` for a SQLite file that may lack changes."""
        if self.path is not None:
            check_journal(self.path.path, "path")
        super().examine(look)

    def cache_key(self) -> Key:
        """Also the files in which SQLite keeps changes that aren't in its main file yet."""
        files = [] if self.path is None else self.path.paths
        journals = [str(journal_of(file).absolute()) for file in files]
        return super().cache_key() | Key(watched=journals)

    def resources(self) -> Resources:
        """The variable with the database's URL."""
        names = (self.url,) if self.url and NAME.fullmatch(self.url) else ()
        return super().resources() | Resources(variables=names)

    def open_records(self, job: Job) -> tuple[Iterable[Record], str, int | None]:
        """The records of a query: as pinned, or of a SQLite file as it is."""
        records = self.records({}) if self.url is None else self.kept_records(job)
        return _with_progress(records, job), self.place(), None

    def kept_records(self, job: Job) -> Iterator[Record]:
        """The records that were kept with the pin, or else those that the query gives now."""
        records = read(job.kept, job.pinned or "", self.place())
        if records is not None:
            return records
        job.log("the rows pinned aren't kept here: the query runs again")
        assert self.url is not None
        now = keep(self.records({self.url: job.secret(self.url)}), job.kept)
        if pinned_as(now) != job.pinned:
            hint = "" if is_ordered(self.text()) else ", and order them: the query has no ORDER BY"
            raise DataError(
                f"the query gives other rows now ({pinned_as(now)}) than those pinned in "
                f"recipe.lock ({job.pinned}), which aren't kept on this machine",
                where=self.place(),
                fix=f"take today's: finery build --update-lock{hint}",
            )
        records = read(job.kept, job.pinned or "", self.place())
        if records is None:
            raise StepError("the rows that were just kept can't be read", where=str(job.kept))
        return records

    def records(self, environment: "os._Environ[str] | dict[str, str]") -> Iterator[Record]:
        """The query's records, straight from the database."""
        query = self.text()
        self._check_parameters(query, "query_file" if self.query is None else "query")
        where = shown(self.query_file.path) if self.query_file is not None else None
        if self.path is not None:
            database = Database.file(self.path.path, where)
        else:
            assert self.url is not None
            if self.url not in environment:
                raise UsageError(
                    f"the environment variable {self.url} isn't set",
                    fix=f"export {self.url}=postgresql://user:password@host/database",
                )
            database = Database.at(environment[self.url], self.url, where)
        return database.records(query, self.params)

    def text(self) -> str:
        """The query."""
        if self.query is not None or self.query_file is None:
            return trimmed(self.query or "")
        path = self.query_file.path
        try:
            return trimmed(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the query can't be read: {error}", where=shown(path)) from error

    def _check_parameters(self, query: str, where: str) -> None:
        wanted = parameters(query)
        for name in self.params:
            if name not in wanted:
                raise UsageError(
                    f"the query has no parameter :{name}",
                    where=f"params.{name}",
                    fix=did_you_mean(name, wanted) or f"write :{name} in the query",
                )
        for name in wanted:
            if name not in self.params:
                raise UsageError(
                    f"the query has the parameter :{name}, and `params` has no value for it",
                    where=where,
                    fix=f"params: {{{name}: …}}; for a plain colon write \\:{name}",
                )

    def place(self) -> str:
        """The name of the database in errors."""
        return self.url or shown(self.path.path if self.path else Path())

    def floating_name(self) -> str | None:
        """The database and the query; a SQLite file is hashed as any file is."""
        if self.url is None:
            return None
        content = msgspec.json.encode([self.text(), self.params], order="deterministic")
        return f"sql:{self.url}/{blake3(content).hexdigest()[:12]}"

    def pin_name(self, folder: Path) -> str:
        """Run the query and keep its rows: their number and digest."""
        return pinned_as(keep(self.records(os.environ), folder))

    def advise(self, inputs: Inputs) -> Iterator[Note]:
        """A note on a query that says nothing of the rows' order."""
        if self.query is not None:
            query, setting = self.query, "query"
        else:
            setting = "query_file"
            try:
                opened: Any = inputs.graph.with_files(inputs.node)
                query = opened.query_file.path.read_text(encoding="utf-8")
            except (FineryError, OSError, UnicodeDecodeError):
                return  # reported elsewhere
        if not is_ordered(query):
            yield Note(
                name="unordered-query",
                text=f"the query of {inputs.name} has no ORDER BY, so its rows may come in any "
                "order",
                fix="order by a column with unique values, e.g. ORDER BY id",
                place=(*inputs.node.place, setting),
            )


def _with_progress(records: Iterator[Record], job: Job) -> Iterator[Record]:
    """The records; reports the job's progress."""
    number = 0
    for number, record in enumerate(records, 1):
        if number % PROGRESS_EVERY == 1:
            job.progress(0, 1, f"{number - 1:,} rows")
        yield record
    job.progress(1, 1, f"{number:,} rows")


ABOUT = {
    "unordered-query": About(
        when="the query of a `sql.query` has no ORDER BY",
        why="Without it, a database may return rows in any order, for example another one after "
        "an update or on another server. The order is part of the result, so another order reruns "
        "all steps after the query.",
    )
}
