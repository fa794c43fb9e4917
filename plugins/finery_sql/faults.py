"""Turns errors of databases into errors with a fix. Their messages never contain a password."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from finery import DataError, FineryError, StepError
from finery.util.text import did_you_mean, nearest
from finery_sql.statement import is_select, line_of

DATABASES = ("postgresql", "sqlite", "mysql", "mariadb", "mssql", "oracle")
PACKAGES = {
    "psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient", "pyodbc": "pyodbc",
    "pymysql": "pymysql", "oracledb": "oracledb",
}  # fmt: skip
"""Module of a driver → package to install."""
URL = "postgresql://user:password@host:5432/database"
_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)
_TABLE = re.compile(r'(?:no such table: |relation ")([^"\n]+)')
_COLUMN = re.compile(r"no such column: (?:\w+\.)?(\w+)")
_NEAR = re.compile(r'near "([^"]+)"')
_READ_ONLY = ("read-only transaction", "readonly database", "READ ONLY transaction")
_LOGIN = ("password authentication failed", "Access denied", "no password supplied")
_AWAY = (
    "Connection refused", "could not translate host name", "failed to resolve", "Name or service",
    "timeout", "timed out", "No such file or directory", "Can't connect", "server closed",
)  # fmt: skip


class Fault(NamedTuple):
    """The context of a failed query. secrets: the URL and its password, which are never shown."""

    engine: Any
    place: str
    query: str
    query_file: str | None
    secrets: Sequence[str]

    def safe(self, text: str) -> str:
        """The text with `***` in place of secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


@contextmanager
def explained(fault: Fault) -> Iterator[None]:
    """Turn what SQLAlchemy raises into an error with a fix."""
    from sqlalchemy import exc

    try:
        yield
    except exc.DBAPIError as error:
        explanation = _explain(error, fault)
        raise explanation from None  # the original message may contain the URL
    except exc.SQLAlchemyError as error:
        raise DataError(
            fault.safe(str(error).splitlines()[0]), where=fault.query_file or fault.place
        ) from None


def unreadable_url(place: str) -> DataError:
    """The error for a variable whose value isn't a URL. The value isn't shown."""
    return DataError(
        f"{place} must be the URL of a database", where=place, fix=f"write it as {URL}"
    )


def unknown_database(name: str, place: str) -> DataError:
    """The error for a URL with an unknown kind of database."""
    kind = name.partition("+")[0]
    return DataError(
        f"SQLAlchemy doesn't know the database '{name}'",
        where=place,
        fix=did_you_mean(kind, DATABASES),
    )


def missing_driver(module: str, place: str) -> StepError:
    """The error for a driver that isn't installed."""
    return StepError(
        f"the driver {module} isn't installed",
        where=place,
        fix=f"pip install '{PACKAGES.get(module, module)}'",
    )


def _explain(error: Any, fault: Fault) -> FineryError:
    """The error to show for an error from the driver."""
    text = fault.safe(str(error.orig).strip())
    what = text.splitlines()[0] if text else type(error.orig).__name__
    if any(mark in text for mark in _LOGIN):
        return StepError(
            "the database rejected the user name or the password",
            where=fault.place,
            fix=f"check the URL in {fault.place}",
            details=[what],
        )
    if "does not exist" in text and 'database "' in text and _state(error) in ("", "3D000"):
        return StepError(what, where=fault.place, fix=f"check the URL in {fault.place}")
    if _state(error) == "" and any(mark in text for mark in _AWAY):
        return StepError(
            "the database can't be reached",
            where=fault.place,
            fix=f"check that it is running, and check the host and port in {fault.place}",
            details=text.splitlines()[:3],
        )
    if any(mark in text for mark in _READ_ONLY):
        return DataError(
            "the query would change the database, but finery only reads it",
            where=fault.query_file or fault.place,
            fix="write a SELECT",
            details=[what],
        )
    return _in_query(text, what, error, fault)


def _in_query(text: str, what: str, error: Any, fault: Fault) -> FineryError:
    """The error for a query that the database rejects, with the line number if it is known."""
    line = _line(text, fault.query)
    where = f"{fault.query_file or f'{fault.place}: query'}{f':{line}' if line else ''}"
    detail = getattr(getattr(error.orig, "diag", None), "message_hint", None)
    if match := _TABLE.search(text):
        return DataError(what, where=where, fix=did_you_mean(match[1], _tables(fault)))
    if match := _COLUMN.search(text):
        near = nearest(match[1], set(_columns(fault)) - {match[1]})  # another table may have it
        return DataError(what, where=where, fix=f"did you mean '{near}'?" if near else None)
    if "statement at a time" in text or "multiple commands" in text:
        return DataError(
            "the query contains several statements", where=where, fix="write a single SELECT"
        )
    repair = "repair the query" if is_select(fault.query) else "write a SELECT"
    return DataError(what, where=where, fix=detail or repair)


def _line(text: str, query: str) -> int | None:
    """The line of the query that an error message refers to."""
    if match := _LINE.search(text):
        return int(match[1])
    token = _NEAR.search(text) or _TABLE.search(text) or _COLUMN.search(text)
    return line_of(query, token[1]) if token else None


def _state(error: Any) -> str:
    """The SQLSTATE of an error; empty if the connection itself failed."""
    return str(getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or "")


def _tables(fault: Fault) -> list[str]:
    """The names of all tables and views."""
    from sqlalchemy import inspect

    inspected = inspect(fault.engine)
    return [*inspected.get_table_names(), *inspected.get_view_names()]


def _columns(fault: Fault) -> list[str]:
    """The names of the columns of all tables."""
    from sqlalchemy import inspect

    inspected = inspect(fault.engine)
    return [
        column["name"]
        for table in inspected.get_table_names()
        for column in inspected.get_columns(table)
    ]
