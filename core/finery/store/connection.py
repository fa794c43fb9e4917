"""The connection to the store's SQLite database, which is replaced if it is damaged."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from finery.errors import FineryError, StepError, UsageError
from finery.util.locks import file_locked, holder_of
from finery.util.paths import STORE_VARIABLE
from finery.util.text import in_line, shortened

T = TypeVar("T")
Statement = tuple[str, Iterable[Sequence[Any]]]
"""An SQL statement and the rows of its parameters."""

VERSION = 4
"""Version of all tables except `records`, which never changes. Bump it when a table changes."""
IMPLAUSIBLE = 1000
"""A version from which on the file is damaged."""
_REBUILT_TABLES = (
    "results", "parts", "latest", "blobs", "files", "remembered", "facts",
    "code", "stamps", "checked", "remote",
)  # fmt: skip
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
  key TEXT PRIMARY KEY, outputs BLOB NOT NULL, seconds REAL NOT NULL, made REAL NOT NULL,
  run TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS parts (key TEXT PRIMARY KEY, parts BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS latest (
  recipe TEXT, step TEXT, key TEXT NOT NULL, previous TEXT,
  PRIMARY KEY (recipe, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blobs (
  digest TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, inode INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
  path TEXT PRIMARY KEY, stat BLOB NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS remembered (
  kind TEXT, path TEXT, stat BLOB NOT NULL, content BLOB NOT NULL,
  PRIMARY KEY (kind, path)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS remote (
  digest TEXT PRIMARY KEY, size INTEGER NOT NULL, pack TEXT NOT NULL, offset INTEGER NOT NULL,
  url TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""
SECONDS = 5
"""How long to wait for a lock before reporting it."""
PATIENT_SECONDS = 60
"""How long to wait when giving up would lose work, such as a paid answer."""
_LOCK_CODES = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_DAMAGE_CODES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})
"""Primary result codes of a damaged file."""
_SCHEMA_ERRORS = (
    "no such table", "no such column", "has no column", "columns but", "malformed",
    "unsupported file format",
)  # fmt: skip
"""Parts of error messages that mean that the schema isn't finery's, or that its format is wrong."""
_DAMAGED_READ_CODES = frozenset({
    sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS, sqlite3.SQLITE_IOERR_DATA,
})  # fmt: skip


class Database:
    """The database of a store, for use by one thread.

    If the database is damaged, the operation replaces it and runs again, see
    `finery.store.repairs`. If the store isn't writable or `read_only` is given, it is opened for
    reading.

    read_only: whether the store isn't writable. opened: how often it was opened. Each time, it may
    be another one, which lacks rows of a damaged one.
    """

    def __init__(self, path: Path, *, seconds: float = SECONDS, read_only: bool = False) -> None:
        self.path = path
        self.read_only = read_only or not (
            os.access(path.parent, os.W_OK | os.X_OK)
            and (not path.exists() or path.is_dir() or os.access(path, os.W_OK))
        )
        self._seconds = seconds
        self.opened = 0
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._run(lambda db: None)

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query. Raises `UsageError` if another process locks the database."""
        return self._run(lambda db: db.execute(query, values).fetchall())

    def write(self, *statements: Statement, patient: bool = False, is_cache: bool = False) -> None:
        """Execute statements in one transaction. Raises `StepError` if that fails.

        patient: wait longer for another process, since the rows would be lost. is_cache: do nothing
            in a read-only store, since the rows can be computed again.
        """
        if self.read_only:
            if is_cache:
                return
            raise StepError(
                f"can't write to {self.path}", fix="check the permissions of the folder"
            )
        batches = [(sql, list(rows)) for sql, rows in statements]

        def transact(db: sqlite3.Connection) -> None:
            seconds = max(PATIENT_SECONDS if patient else 0, self._seconds)
            db.execute(f"PRAGMA busy_timeout={round(1000 * seconds)}")
            try:
                db.execute("BEGIN IMMEDIATE")
                if self._is_replaced():  # while this process waited
                    raise sqlite3.DatabaseError("it is not the store's any more")
                for sql, rows in batches:
                    db.executemany(sql, rows)
                db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

        self._run(transact, writing=True)

    def close(self) -> None:
        """Close the connection. The next operation opens a new one."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def damaged(self, why: str) -> None:
        """Replace the database because it contains a damaged value."""
        self._mend(why)

    # -- damage and locks ------------------------------------------------------------------------

    def _run(self, action: Callable[[sqlite3.Connection], T], *, writing: bool = False) -> T:
        """Run an operation, and run it again after replacing a damaged database."""
        if self._is_replaced():
            self.close()
        for attempt in (1, 2):
            try:
                if self._db is None:
                    self._open()
                assert self._db is not None
                return action(self._db)
            except (sqlite3.Error, UnicodeDecodeError) as raised:
                # SQLite's message may quote damaged bytes, which aren't UTF-8.
                error = (
                    raised if isinstance(raised, sqlite3.Error)
                    else sqlite3.DatabaseError(str(raised))
                )  # fmt: skip
                if attempt == 2 or not _is_damage(error):
                    raise self._user_error(error, writing) from error
                self._mend(shortened(in_line(str(error)), 80))  # it may quote damaged bytes
        raise AssertionError

    def _is_replaced(self) -> bool:
        """Whether another process has replaced the database, which was damaged."""
        return not self.read_only and self._db is not None and self._file != _file_id(self.path)

    def _open(self) -> None:
        self.opened += 1
        if self.read_only:
            self._db = _open_for_reading(self.path)
        else:
            with file_locked(self.path.with_name("mending"), alone=False, is_needed=False):
                self._file = _file_id(self.path)
                if _is_half_replaced(self.path):
                    raise sqlite3.DatabaseError("a process ended while it replaced it")
                if _is_emptied(self.path):
                    raise sqlite3.DatabaseError("the file is empty")
                self._db = connect(self.path, self._seconds)
                self._file = self._file or _file_id(self.path)
        if _is_truncated(self._db, self.path):
            raise sqlite3.DatabaseError("its end is missing")

    def _mend(self, why: str) -> None:
        """Replace the damaged database by a new one with all readable data."""
        if self.read_only:
            raise UsageError(
                f"the database {self.path} is damaged ({why}), and the store isn't writable",
                fix=f"make the store writable, or set {STORE_VARIABLE} to a copy of it: "
                "finery repairs it",
            )
        self.close()
        try:
            with file_locked(self.path.with_name("mending")):
                # Otherwise another process has replaced it.
                if self._file == _file_id(self.path) or _is_half_replaced(self.path):
                    _replace(self.path, why)
        except (OSError, sqlite3.Error) as error:
            if isinstance(error, sqlite3.Error) and _result_code(error) in _LOCK_CODES:
                raise self._user_error(error, writing=False) from error
            raise UsageError(
                f"the database {self.path} is damaged ({why}) and can't be replaced: {error}",
                fix="free some disk space, or check the permissions of the folder",
            ) from error

    def _user_error(self, error: sqlite3.Error, writing: bool) -> FineryError:
        kind = StepError if writing else UsageError
        if _result_code(error) in _LOCK_CODES:
            return kind(
                f"the database {self.path} is locked by {holder_of(*_files_of(self.path))}",
                fix="end that process or wait for it, then try again: no data is lost",
            )
        verb = "write to" if writing else "use"
        files = (*_files_of(self.path), self.path.with_name(f"{self.path.name}-journal"))
        for file in files:
            if file.exists() and not os.access(file, os.R_OK | os.W_OK):
                return kind(
                    f"can't {verb} {self.path}: no permission to write {file}",
                    fix="change its owner or its permissions, then try again: no data is lost",
                )
        return kind(
            f"can't {verb} {self.path}: {error}",
            fix="free some disk space or check the permissions, then try again: no data is lost; "
            f"set {STORE_VARIABLE} to use another folder",
        )


def connect(path: Path, seconds: float = SECONDS) -> sqlite3.Connection:
    """Connect to the database at `path`, or create it.

    seconds: how long to wait for a lock.
    """
    db = sqlite3.connect(path, timeout=seconds, isolation_level=None)
    try:
        _prepare(db, path)
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection, path: Path) -> int:
    """The version of the tables. Raises `UsageError` for that of a newer finery."""
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if not 0 <= version < IMPLAUSIBLE:
        raise sqlite3.DatabaseError(f"its version is {version}")
    if version > VERSION:
        raise UsageError(
            f"a newer finery wrote this database: its version is {version}, and this finery reads "
            f"up to version {VERSION}; nothing was changed",
            where=str(path),
            fix=f"upgrade finery: pip install -U finery; or set {STORE_VARIABLE} to another folder",
        )
    return version


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    version = _version(db, path)
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("PRAGMA secure_delete=FAST")  # a removed password leaves no bytes in its page
    deadline = time.monotonic() + SECONDS
    while db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            db.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:  # SQLite doesn't wait for others that do this
            if _result_code(error) not in _LOCK_CODES or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    newest = "SELECT 1 FROM sqlite_master WHERE name = 'remote'"  # added without a new version
    if version != VERSION or db.execute(newest).fetchone() is None:
        db.execute("BEGIN IMMEDIATE")
        with db:
            # Tables of another version are dropped, except the records, which cost money. It is
            # read again, since another process may have done that and recorded results.
            is_other = _version(db, path) not in (0, VERSION)
            drop = (
                "".join(f"DROP TABLE IF EXISTS {t};" for t in _REBUILT_TABLES) if is_other else ""
            )
            for statement in f"{drop} {_SCHEMA} PRAGMA user_version={VERSION}".split(";"):
                db.execute(statement)


def _staging_path(path: Path) -> Path:
    """The file in which a new database is prepared in place of a damaged one."""
    return path.with_name(f"{path.name}.new")


def _is_half_replaced(path: Path) -> bool:
    """Whether a process was killed after it had renamed the database."""
    return not path.exists() and _staging_path(path).exists()


def _replace(path: Path, why: str) -> None:
    """Rename the database at `path`, and create a new one with its readable data.

    The new one is complete before the old one is renamed. If the process is killed in between, the
    next one that opens the database continues here.
    """
    from finery.store.repairs import free_name, salvage, warn

    staged, is_there = _staging_path(path), path.exists()
    for leftover in _files_of(staged) if is_there else ():
        leftover.unlink(missing_ok=True)
    with closing(sqlite3.connect(path if is_there else ":memory:", timeout=SECONDS)) as locked_db:
        try:  # what others write now would be lost
            locked_db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if _result_code(error) in _LOCK_CODES:
                raise
        with closing(connect(staged)) as new_db:
            saved = salvage(path, new_db)
            new_db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # As the process that was killed has named it.
        earlier = [] if is_there else path.parent.glob(f"{path.name}.damaged-*[0-9]")
        aside = max(earlier, key=lambda file: file.stat().st_ctime, default=free_name(path))
        for old_file in _files_of(path):  # the log, too: it must not stay beside the new file
            with suppress(FileNotFoundError):  # another process that closes it removes the log
                old_file.rename(aside.with_name(aside.name + old_file.name.removeprefix(path.name)))
        staged.replace(path)
    warn(
        f"the database {path} was damaged ({why}) and replaced: {saved['records']:,} model answers "
        f"and {saved['results']:,} finished steps were recovered; other steps rerun; the damaged "
        f"file is {aside}"
    )


def _files_of(path: Path) -> list[Path]:
    """The files of a database: itself, its write-ahead log and the log's index."""
    return [path.with_name(f"{path.name}{end}") for end in ("", "-shm", "-wal")]


def _open_for_reading(path: Path) -> sqlite3.Connection:
    """Connect to a database in a folder that isn't writable."""
    if not path.exists():
        db = sqlite3.connect(":memory:", isolation_level=None)
        _prepare(db, path)
        return db
    uri = path.absolute().as_uri()
    wal = path.with_name(f"{path.name}-wal")
    # SQLite can't create the log's index here, and needs none without a log.
    mode = "mode=ro" if wal.exists() and wal.stat().st_size else "immutable=1"
    db = sqlite3.connect(f"{uri}?{mode}", uri=True, timeout=SECONDS, isolation_level=None)
    try:
        _version(db, path)
        db.execute("SELECT 1 FROM results LIMIT 1")
    except sqlite3.OperationalError as error:
        db.close()
        if _is_damage(error) or _result_code(error) in _LOCK_CODES:
            raise
        return _copy_to_memory(path, wal)
    return db


def _copy_to_memory(path: Path, wal: Path) -> sqlite3.Connection:
    """A copy in memory of a database and its log."""
    import shutil
    import tempfile

    memory = sqlite3.connect(":memory:", isolation_level=None)
    with tempfile.TemporaryDirectory(prefix="finery-") as folder:
        copy = Path(folder, "finery.db")
        shutil.copyfile(path, copy)
        shutil.copyfile(wal, copy.with_name("finery.db-wal"))
        source = sqlite3.connect(copy)
        source.backup(memory)
        source.close()
    return memory


def _is_emptied(path: Path) -> bool:
    """Whether a database has lost its content: the file is empty, but the store isn't."""
    try:
        if os.stat(path).st_size:
            return False
        objects = path.parent / "objects"
        age = time.time() - os.stat(path).st_mtime  # another process may be creating it
        return age > 1 and objects.is_dir() and any(objects.iterdir())
    except OSError:
        return False


def _is_truncated(db: sqlite3.Connection, path: Path) -> bool:
    """Whether the end of a database is missing. SQLite reads zeros there, and loses what it writes.

    With rows in the log, the file may lack pages, so that this isn't known.
    """
    db.execute("BEGIN")  # else another process may shrink the database between two looks at it
    with db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        size = pages * db.execute("PRAGMA page_size").fetchone()[0]
        try:
            log = path.with_name(f"{path.name}-wal")
            return not (log.exists() and log.stat().st_size) and path.stat().st_size < size
        except OSError:
            return False  # it is in memory


def _file_id(path: Path) -> tuple[int, int] | None:
    try:
        s = os.stat(path)
    except OSError:
        return None
    return s.st_dev, s.st_ino


def _result_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for errors of the Python module."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the database is damaged."""
    extended_code = getattr(error, "sqlite_errorcode", None)
    if extended_code is None:  # from Python: text that isn't UTF-8, or `_is_emptied`
        return type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError)
    if extended_code in _DAMAGED_READ_CODES or _result_code(error) in _DAMAGE_CODES:
        return True
    return _result_code(error) == sqlite3.SQLITE_ERROR and any(
        t in str(error) for t in _SCHEMA_ERRORS
    )
