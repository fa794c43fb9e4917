"""A database that is only read: its records as a stream, by SQLAlchemy, or an error with a fix.

No error contains a password.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finery import DataError, FineryError, StepError, UsageError
from finery.advanced import did_you_mean, nearest, shown
from finery.rows.badrow import BadRow
from finery.rows.tables.records import Record
from finery.rows.tables.values import json_value

DATABASES = ("postgresql", "sqlite", "mysql", "mariadb", "mssql", "oracle")
PACKAGES = {
    "psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient", "pyodbc": "pyodbc",
    "pymysql": "pymysql", "oracledb": "oracledb",
}  # fmt: skip
"""Module of a driver → package to install."""
URL = "postgresql://user:password@host:5432/database"
NOT_CODE = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?(?:\*/|\Z)|\$(\w*)\$.*?\$\1\$""", re.DOTALL
)
"""Texts, quoted names and comments in a query."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)
_TABLE = re.compile(r'(?:no such table: |relation ")([^"\n]+)')
_COLUMN = re.compile(r"no such column: (?:\w+\.)?(\w+)")
_NEAR = re.compile(r'near "([^"]+)"')
_READ_ONLY = ("read-only transaction", "readonly database", "READ ONLY transaction")
_LOGIN_MESSAGES = ("password authentication failed", "Access denied", "no password supplied")
_CONNECTION_MESSAGES = (
    "Connection refused", "could not translate host name", "failed to resolve", "Name or service",
    "timeout", "timed out", "No such file or directory", "Can't connect", "server closed",
)  # fmt: skip
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
            raise DataError(  # the value isn't shown
                f"{place} must be the URL of a database", where=place, fix=f"write it as {URL}"
            ) from None
        if parsed.get_backend_name() == "sqlite":
            path = parsed.database
            if not path or path == ":memory:" or path.startswith("file:"):
                raise DataError(
                    "the URL doesn't name an SQLite file",
                    where=place,
                    fix="write sqlite:///path/to/file.db",
                )
            return cls(_sqlite(Path(path)), place, query_file)
        password = parsed.password or ""
        secrets = (url, password, quote(password, safe=""))
        return cls(_engine(parsed, place), place, query_file, secrets)

    def records(self, query: str, params: Mapping[str, Any]) -> Iterator[Record]:
        """The records of a query, in order, as a stream."""
        number = 0
        with self._explain_errors(query), self._reading() as connection:
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

    @contextmanager
    def _explain_errors(self, query: str) -> Iterator[None]:
        """Turn what SQLAlchemy raises into an error with a fix."""
        from sqlalchemy import exc

        try:
            yield
        except exc.DBAPIError as error:
            explanation = self._explain(error, query)
            raise explanation from None  # the original message may contain the URL
        except exc.SQLAlchemyError as error:
            problem = self._safe(str(error).splitlines()[0])
            raise DataError(problem, where=self._query_file or self._place) from None

    def _safe(self, text: str) -> str:
        """The text with `***` in place of the URL and its password."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _explain(self, error: Any, query: str) -> FineryError:
        """The error to show for an error from the driver."""
        driver, place = error.orig, self._place
        text = self._safe(str(driver).strip())
        problem = text.splitlines()[0] if text else type(driver).__name__
        # SQLSTATE is empty if the connection itself failed.
        state = str(getattr(driver, "sqlstate", None) or getattr(driver, "pgcode", None) or "")
        if any(mark in text for mark in _LOGIN_MESSAGES):
            return StepError(
                "the database rejected the user name or the password",
                where=place,
                fix=f"check the URL in {place}",
                details=[problem],
            )
        if "does not exist" in text and 'database "' in text and state in ("", "3D000"):
            return StepError(problem, where=place, fix=f"check the URL in {place}")
        if state == "" and any(mark in text for mark in _CONNECTION_MESSAGES):
            return StepError(
                "the database can't be reached",
                where=place,
                fix=f"check that it is running, and check the host and port in {place}",
                details=text.splitlines()[:3],
            )
        if any(mark in text for mark in _READ_ONLY):
            return DataError(
                "the query would change the database, but finery only reads it",
                where=self._query_file or place,
                fix="write a SELECT",
                details=[problem],
            )
        where = f"{self._query_file or f'{place}: query'}{_line(text, query)}"
        if "statement at a time" in text or "multiple commands" in text:
            problem, fix = "the query contains several statements", "write a single SELECT"
            return DataError(problem, where=where, fix=fix)
        return DataError(problem, where=where, fix=self._fix(driver, text, query))

    def _fix(self, driver: Any, text: str, query: str) -> str | None:
        """The fix for a query that the database rejects. text: the driver's message."""
        from sqlalchemy import inspect

        if match := _TABLE.search(text):
            inspected = inspect(self._engine)
            names = [*inspected.get_table_names(), *inspected.get_view_names()]
            return did_you_mean(match[1], names)
        if match := _COLUMN.search(text):
            inspected = inspect(self._engine)
            tables = map(inspected.get_columns, inspected.get_table_names())
            columns = {column["name"] for table in tables for column in table}
            near = nearest(match[1], columns - {match[1]})  # another table may have it
            return f"did you mean '{near}'?" if near else None
        code = NOT_CODE.sub(" ", query).lstrip("( \t\r\n").lower()
        returns_rows = code.startswith(("select", "with", "values", "table"))
        repair = "repair the query" if returns_rows else "write a SELECT"
        return getattr(getattr(driver, "diag", None), "message_hint", None) or repair


def _line(text: str, query: str) -> str:
    """`:` and the line of the query that an error message refers to; empty if it names none."""
    if match := _LINE.search(text):
        return f":{match[1]}"
    token = _NEAR.search(text) or _TABLE.search(text) or _COLUMN.search(text)
    if token is None or query.count(token[1]) != 1:
        return ""
    lines = query[: query.index(token[1])].count("\n")
    return f":{lines + 1}"


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
        raise DataError(
            f"SQLAlchemy doesn't know the database '{url.drivername}'",
            where=place,
            fix=did_you_mean(url.drivername.partition("+")[0], DATABASES),
        ) from None
    except ImportError as error:
        module = error.name or url.get_driver_name()
        raise StepError(
            f"the driver {module} isn't installed",
            where=place,
            fix=f"pip install '{PACKAGES.get(module, module)}'",
        ) from error


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
    columns = {name: json_value(value) for name, value in values.items()}
    for name, value in columns.items():
        if isinstance(value, str) and not value.isascii() and _SURROGATE.search(value):
            return BadRow(f"'{name}' isn't UTF-8", "repair it in the database")
    return columns
