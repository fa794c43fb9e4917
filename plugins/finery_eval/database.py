"""An in-memory database that runs untrusted queries safely.

A query may only read the tables that the scripts created. It can't write, open a file, attach
a database, set a pragma, load an extension, run for ever, fill the memory, or depend on random
numbers or on the time of day.

https://www.sqlite.org/security.html, https://www.sqlite.org/c3ref/set_authorizer.html
"""

import math
import re
import sqlite3
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from finery import DataError
from finery.advanced import shown

Cell = int | float | str | bytes | None
Result = list[tuple[Cell, ...]]

MAX_ROWS = 100_000
MAX_BYTES = 16 << 20
"""Largest total size of a result's texts and blobs."""
LIMITS = {
    # Short, because some functions of SQLite take time quadratic in the length, and SQLite looks at
    # the clock only where its code jumps, so not between 200 columns.
    sqlite3.SQLITE_LIMIT_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
HEAP = 512 << 20
"""Memory limit of SQLite in bytes. It holds for the process and can't be raised again."""
STEPS = 1_000
"""Instructions of SQLite's virtual machine between two looks at the clock."""

READING = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE})
SYSTEM_TABLES = frozenset({"sqlite_master", "sqlite_schema", "json_each", "json_tree"})
REFUSED = frozenset(
    {"load_extension", "fts3_tokenizer", "random", "randomblob", "sqlite_log", "sqlite_offset",
     "current_date", "current_time", "current_timestamp", "last_insert_rowid", "changes",
     "total_changes", "sqlite_version", "sqlite_source_id", "sqlite_compileoption_get",
     "sqlite_compileoption_used"}
)  # fmt: skip
CLOCKS = ("date", "time", "datetime", "julianday", "unixepoch", "strftime", "timediff")
NOT_FIXED = frozenset({"now", "localtime", "utc", "subsec", "subsecond"})
"""Arguments with which `CLOCKS` give another time at each call, or in another time zone."""

_EXPLAIN = re.compile(r"explain\b", re.IGNORECASE)
_BLANK = re.compile(r"(?:\s+|--[^\n]*|/\*.*?(?:\*/|\Z))*", re.DOTALL)


class QueryError(Exception):
    """A query has no result; the message says why."""


class Database:
    """Open the database that the scripts at `paths` create.

    Raises `DataError` with the line of a script that fails.
    """

    def __init__(self, paths: Sequence[Path], *, timeout: float) -> None:
        self._timeout = timeout
        self._deadline = math.inf
        self._refused = ""  # why the last call of one of CLOCKS was refused
        self._calendar = sqlite3.connect(":memory:")
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        self._connection.execute("PRAGMA temp_store = MEMORY")
        for name in CLOCKS:
            call = partial(self._clock, name)
            self._connection.create_function(name, -1, call, deterministic=True)
        self._connection.set_authorizer(_allow_making)
        for path in paths:
            self._run_script(path)
        self._tables = self._made(paths)
        self._lock()

    def query(self, sql: str) -> Result:
        """The rows of one query, in order. Raises `QueryError` if it fails."""
        self._deadline = time.monotonic() + self._timeout
        begin = _BLANK.match(sql)
        if _EXPLAIN.match(sql, begin.end() if begin else 0):  # the plan depends on SQLite's version
            raise QueryError("EXPLAIN has no answer from the tables")
        try:
            cursor = self._connection.execute(sql)
            if cursor.description is None:
                raise QueryError("not a query")
            return _fetched(cursor)
        except MemoryError:
            raise QueryError(f"takes more than {HEAP >> 20} MiB of memory") from None
        except (sqlite3.Error, sqlite3.Warning, UnicodeError, ValueError) as error:
            raise QueryError(self._why(error)) from None
        finally:
            self._deadline = math.inf

    def close(self) -> None:
        """Free the memory."""
        self._connection.close()
        self._calendar.close()

    def _run_script(self, path: Path) -> None:
        for line, statement in statements(_read(path)):
            try:
                self._connection.execute(statement).fetchall()
            except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
                raise DataError(
                    f"the script fails: {self._why(error)}",
                    where=f"{shown(path)}:{line}",
                    fix="correct it",
                ) from None

    def _made(self, paths: Sequence[Path]) -> frozenset[str]:
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")
        rows = self._connection.execute(
            "SELECT name FROM sqlite_master UNION SELECT name FROM sqlite_temp_master"
        )
        names = frozenset(name.lower() for (name,) in rows)
        if not names:
            raise DataError(
                "the scripts create no table",
                where=shown(paths[0]),
                fix="write the SQL that creates and fills the tables: CREATE TABLE …; INSERT …;",
            )
        return names

    def _lock(self) -> None:
        """From here on, allow only queries that read."""
        self._connection.execute("PRAGMA query_only = ON")
        self._connection.execute(f"PRAGMA hard_heap_limit = {HEAP}")
        for limit, value in LIMITS.items():
            self._connection.setlimit(limit, value)
        self._connection.set_progress_handler(lambda: time.monotonic() > self._deadline, STEPS)
        self._connection.set_authorizer(self._allow)

    def _allow(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action in READING:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ:
            # Without a column: rows are counted, also those of a query that has a name.
            is_known_table = not second or (first or "").lower() in self._tables | SYSTEM_TABLES
            return sqlite3.SQLITE_OK if is_known_table else sqlite3.SQLITE_DENY
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() not in REFUSED:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _why(self, error: Exception) -> str:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT:
            return f"takes longer than {self._timeout:g} s"
        refused, self._refused = self._refused, ""
        return refused or str(error)

    def _clock(self, name: str, *arguments: Cell) -> Cell:
        """SQLite's function `name`, for times that are written out."""
        times = [
            a.decode("utf-8", "replace") if isinstance(a, bytes) else a
            for a in (arguments[1:] if name == "strftime" else arguments)
        ]
        if not times or any(isinstance(a, str) and a.strip().lower() in NOT_FIXED for a in times):
            self._refused = f"the result of {name}() depends on when or where it runs"
            raise ValueError(self._refused)
        marks = ", ".join("?" * len(arguments))
        try:
            row: tuple[Cell] = self._calendar.execute(
                f"SELECT {name}({marks})", arguments
            ).fetchone()
        except sqlite3.Error as error:
            self._refused = str(error)
            raise
        return row[0]


def _allow_making(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Scripts may do anything that has the same result everywhere."""
    outside = action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
    loads = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in REFUSED
    return sqlite3.SQLITE_DENY if outside or loads else sqlite3.SQLITE_OK


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"the script isn't UTF-8: {error}", where=shown(path), fix="save it as UTF-8"
        ) from None
    if "\0" in text:
        raise DataError("the script holds a NUL character", where=shown(path), fix="remove it")
    return text


def statements(script: str) -> Iterator[tuple[int, str]]:
    """(line from 1, statement) of a script, without blank or commented ends."""
    start, end = 0, script.find(";")
    while end >= 0:
        if sqlite3.complete_statement(script[start : end + 1]):
            yield from _statement(script, start, end + 1)
            start = end + 1
        end = script.find(";", end + 1)
    yield from _statement(script, start, len(script))


def _statement(script: str, start: int, end: int) -> Iterator[tuple[int, str]]:
    blank = _BLANK.match(script, start, end)
    begin = blank.end() if blank else start
    if begin < end:
        yield 1 + script.count("\n", 0, begin), script[begin:end]


def _fetched(cursor: sqlite3.Cursor) -> Result:
    rows: Result = []
    size = 0
    for row in cursor:
        rows.append(row)
        size += sum(len(cell) for cell in row if isinstance(cell, str | bytes))
        if len(rows) > MAX_ROWS or size > MAX_BYTES:
            cursor.close()
            raise QueryError(f"returns more than {MAX_ROWS:,} rows or {MAX_BYTES >> 20} MiB")
    return rows
