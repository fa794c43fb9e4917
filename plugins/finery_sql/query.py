"""`sql.query`: rows of a SQL query."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from finery import (
    About,
    DataError,
    Dataset,
    Graph,
    Job,
    Node,
    Note,
    OneFile,
    StepError,
    UsageError,
    check_plain,
    did_you_mean,
    setting,
    shown,
)
from finery.rows.tables.records import Record
from finery_data.sources.source import RowSource
from finery_sql.snapshot import keep, pinned_as, read
from finery_sql.statement import is_ordered, parameters, trimmed

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PROGRESS_EVERY = 5_000


class SqlQuery(
    RowSource,
    version="1",
    pinned="finery_sql.pins:QueryPin",
    traceable="finery_sql.places:QueryPlaces",
    preflight="finery_sql.preflight:QueryPreflight",
):
    """Rows of a query to an SQL database, by SQLAlchemy.

    A database isn't a file, so the result is pinned: the first build runs the query, notes in
    `recipe.lock` how many rows came and their digest, and keeps them in the store. From then on
    these are the rows, whatever the database holds; a change of `columns` or `format` asks it
    nothing. `finery build --update-lock` takes the rows of today, and where they are the same,
    nothing runs. Where the rows kept are gone, as on another machine, the query runs again, and
    the build stops if it gives others. A SQLite file under `path` needs no pin: it is a file.

    Rows are made of the columns as `data.file` makes them. Dates and times are ISO 8601 (with a
    zone: in UTC), decimals their digits as text, JSON columns objects and lists, NULL null. The
    query can't change the database where that knows read-only transactions (PostgreSQL, SQLite,
    MySQL), and its result is read as a stream.
    """

    url: str | None = setting(
        None,
        help="Name of the environment variable with the database's URL, as SQLAlchemy writes it: "
        "postgresql://user:password@host/database.",
        examples=["DATABASE_URL"],
    )
    path: OneFile | None = setting(None, help="Instead of `url`: a SQLite file.")
    query: str | None = setting(
        None, help="The query; `:name` is a parameter.", examples=["SELECT * FROM t ORDER BY id"]
    )
    query_file: OneFile | None = setting(None, help="Instead of `query`: a file with it.")
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
                "url names an environment variable, and this is no such name: a URL may hold a "
                "password, which must not be in a recipe",
                where="url",
                fix="export DATABASE_URL=…, and write url: DATABASE_URL; for a SQLite file: path",
            )
        if self.query is not None:
            self._check_parameters(self.query, "query")

    def check_files(self) -> None:
        """Raise `UsageError` for a SQLite file that may lack changes."""
        from finery_sql.database import check_journal

        if self.path is not None:
            check_journal(self.path.path, "path")

    def key_files(self) -> list[str]:
        """Where SQLite writes changes that aren't in its file yet, so that they are noticed."""
        from finery_sql.database import journal_of

        files = [] if self.path is None else self.path.paths
        return [str(journal_of(file).absolute()) for file in files]

    def variables(self) -> tuple[str, ...]:
        """The variable with the database's URL."""
        return (self.url,) if self.url and NAME.fullmatch(self.url) else ()

    def run(self, job: Job) -> Dataset:
        """Write the rows, as they were when the query was pinned."""
        return self.written(job, _told(self.pinned_records(job), job), self.place())

    def pinned_records(self, job: Job) -> Iterator[Record]:
        """The records of a query: as pinned, or of a SQLite file as it is."""
        return self.records({}) if self.url is None else self.kept_records(job)

    def kept_records(self, job: Job) -> Iterator[Record]:
        """The records that were kept with the pin; where they are gone, those of the query now."""
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
        from finery_sql.database import Database

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
        """How errors call the database."""
        return self.url or shown(self.path.path if self.path else Path())


def _told(records: Iterator[Record], job: Job) -> Iterator[Record]:
    """The records, with the job's progress told."""
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


def notes_on(graph: Graph) -> list[Note]:
    """A note for each query that says nothing of the rows' order."""
    return [
        Note(
            name="unordered-query",
            text=f"the query of {node.name} has no ORDER BY, so its rows may come in any order",
            fix="order by a column with unique values, e.g. ORDER BY id",
            step=node.name,
            place=(*node.place, "query_file" if node.step.query is None else "query"),
        )
        for node in graph.nodes.values()
        if isinstance(node.step, SqlQuery) and not is_ordered(_text(graph, node) or "order by")
    ]


def _text(graph: Graph, node: Node) -> str | None:
    """The query; None where its file can't be read, which is an error told elsewhere."""
    step = node.step
    assert isinstance(step, SqlQuery)
    if step.query is not None or step.query_file is None:
        return step.query
    try:
        path = graph.recipe.folder / step.query_file.patterns[0]
        check_plain(path)
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
