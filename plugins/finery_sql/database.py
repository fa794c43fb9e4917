"""A database that is only read: its records as a stream, by SQLAlchemy."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finery import DataError, StepError, UsageError, shown
from finery.rows.badrow import BadRow
from finery.rows.tables.records import Record
from finery.rows.tables.values import plain
from finery_sql.faults import Fault, explained, missing_driver, unknown_database, unreadable_url

BATCH = 1_000
"""Rows that are fetched at a time."""
CONNECT_SECONDS = 10
POSTGRES_DRIVERS = ("psycopg", "psycopg2")
SQLITE_MAGIC = b"SQLite format 3\0"
"""The first bytes of a database file."""
READ_ONLY = {
    "sqlite": ("PRAGMA query_only = ON",),
    "mysql": ("SET SESSION TRANSACTION READ ONLY",),
    "mariadb": ("SET SESSION TRANSACTION READ ONLY",),
    "postgresql": ("SET TRANSACTION READ ONLY", "SET LOCAL TIME ZONE 'UTC'"),
}
"""First statements, by dialect. They fix the time zone, because results must not depend on it."""


class Database:
    """The database of a query. place: its name in errors. query_file: the file with the query."""

    def __init__(
        self, engine: Any, place: str, query_file: str | None, secrets: Sequence[str] = ()
    ) -> None:
        self._engine = engine
        self._place = place
        self._query_file = query_file
        self._secrets = [secret for secret in secrets if secret]

    @classmethod
    def file(cls, path: Path, query_file: str | None) -> "Database":
        """A SQLite file, as it is on the disk."""
        check_journal(path, shown(path))
        return cls(_sqlite(path), shown(path), query_file)

    @classmethod
    def at(cls, url: str, place: str, query_file: str | None) -> "Database":
        """The database of a URL. The URL contains a password, so it is never shown."""
        sqlalchemy = library()
        if url.startswith("postgres://"):  # what some hosts write
            url = url.replace("postgres://", "postgresql://", 1)
        try:
            parsed = sqlalchemy.engine.make_url(url)
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise unreadable_url(place) from None
        if parsed.get_backend_name() == "sqlite":
            return cls(_sqlite(_sqlite_path(parsed, place)), place, query_file)
        password = parsed.password or ""
        secrets = (url, password, quote(password, safe=""))
        return cls(_engine(parsed, place), place, query_file, secrets)

    def records(self, query: str, params: Mapping[str, Any]) -> Iterator[Record]:
        """The records of a query, in order, as a stream."""
        number = 0
        fault = Fault(self._engine, self._place, query, self._query_file, self._secrets)
        with explained(fault), self._reading() as connection:
            result = connection.execute(library().text(query), dict(params))
            names = self._names(result)
            for values in result:
                number += 1
                where = f"{self._place} (row {number})"
                yield Record(where, _columns(dict(zip(names, values, strict=True))))

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """A connection in a transaction that changes nothing, and ends without a trace."""
        options = {"stream_results": True, "yield_per": BATCH}
        with self._engine.connect() as connection:
            for command in READ_ONLY.get(connection.dialect.name, ()):
                connection.exec_driver_sql(command)
            try:
                yield connection.execution_options(**options)
            finally:
                connection.rollback()

    def _names(self, result: Any) -> list[str]:
        if not result.returns_rows:
            raise DataError(
                "the query returns no rows: it is a command",
                where=self._query_file or self._place,
                fix="write a SELECT",
            )
        names = list(result.keys())
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(
                f"the query returns two columns named '{twice[0]}'",
                where=self._query_file or self._place,
                fix=f"rename one of them: AS other_{twice[0]}",
            )
        return names


def journal_of(path: Path) -> Path:
    """Where SQLite keeps changes before they are in its file."""
    return path.with_name(f"{path.name}-wal")


def check_journal(path: Path, where: str) -> None:
    """Raise `UsageError` for a SQLite file that may lack changes. where: how the error calls it."""
    journal = journal_of(path)
    try:
        size = journal.stat().st_size
    except OSError:
        return
    if size:
        raise UsageError(
            f"the database has changes that are only in {journal.name}, not yet in its file",
            where=where,
            fix="stop the program that writes it, or run: sqlite3 "
            f"{path.name} 'PRAGMA wal_checkpoint(TRUNCATE)'",
        )


def library() -> Any:
    """SQLAlchemy, imported when a query runs."""
    try:
        import sqlalchemy
    except ImportError as error:
        raise StepError(
            "sql.query needs the package sqlalchemy, which isn't installed",
            fix="pip install 'finery[sql]'",
        ) from error
    return sqlalchemy


def _engine(url: Any, place: str) -> Any:
    """The engine of a server's URL."""
    sqlalchemy, arguments = library(), {}
    if url.get_backend_name() == "postgresql":
        arguments["connect_timeout"] = CONNECT_SECONDS
        if url.drivername == "postgresql":
            driver = next((d for d in POSTGRES_DRIVERS if find_spec(d)), POSTGRES_DRIVERS[0])
            url = url.set(drivername=f"postgresql+{driver}")
    try:
        return sqlalchemy.create_engine(
            url, poolclass=sqlalchemy.pool.NullPool, hide_parameters=True, connect_args=arguments
        )
    except sqlalchemy.exc.NoSuchModuleError:
        raise unknown_database(url.drivername, place) from None
    except ImportError as error:
        raise missing_driver(error.name or url.get_driver_name(), place) from error


def _sqlite_path(url: Any, place: str) -> Path:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise DataError(
            "the URL doesn't name an SQLite file",
            where=place,
            fix="write sqlite:///path/to/file.db",
        )
    return Path(url.database)


def _sqlite(path: Path) -> Any:
    """The engine of a SQLite file, opened so that nothing can be written."""
    import sqlite3

    sqlalchemy = library()

    def connect() -> sqlite3.Connection:
        _check_sqlite(path)
        connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)
        # A text that isn't UTF-8 spoils its row, not the query.
        connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        return connection

    return sqlalchemy.create_engine(
        "sqlite://", creator=connect, poolclass=sqlalchemy.pool.NullPool, hide_parameters=True
    )


def _check_sqlite(path: Path) -> None:
    """Raise `DataError` unless a SQLite database is there; one without a table is an empty file."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(SQLITE_MAGIC))
    except OSError as error:
        why = error.strerror or str(error)
    else:
        if begins == SQLITE_MAGIC:
            return
        why = "the file isn't a database" if begins else "the file is empty"
    raise DataError(
        f"there is no SQLite database at {path.absolute()}: {why}",
        where=shown(path),
        fix="name the database file; in a URL, as sqlite:////absolute/path.db",
    )


def _columns(values: dict[str, Any]) -> dict[str, Any] | BadRow:
    """The columns of a record as rows can hold them, or why they can't."""
    columns = {name: plain(value) for name, value in values.items()}
    for name, value in columns.items():
        if isinstance(value, str) and not value.isascii() and _is_broken(value):
            return BadRow(f"'{name}' isn't UTF-8", "repair it in the database")
    return columns


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
