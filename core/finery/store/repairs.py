"""Automatic repairs of what something else changed in the store: files, folders, its database."""

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.manifest import Manifest, Parts, is_sound
from finery.util.text import visible


def warn(text: str) -> None:
    """Report a repair on stderr. In a worker, that is the step's log."""
    print(f"warning: {visible(text)}", file=sys.stderr, flush=True)


def make_folder(path: Path) -> None:
    """Create a folder of the store. If its path is taken by something else, rename that."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        aside = set_aside(path)
        path.mkdir(exist_ok=True)
        warn(f"{path} wasn't a folder, and was renamed to {aside.name}")


def clear_path(path: Path) -> None:
    """Rename a folder, a pipe or a device that is in place of a file."""
    if path.exists() and not path.is_file():
        warn(f"{path} wasn't a file, and was renamed to {set_aside(path).name}")


def set_aside(path: Path) -> Path:
    """Rename `path` to a name in the same folder with the current time."""
    aside = free_name(path)
    path.rename(aside)
    return aside


def free_name(path: Path) -> Path:
    """A free name in the same folder, e.g. `finery.db.damaged-20260131-154502`."""
    name = f"{path.name}.damaged-{datetime.now():%Y%m%d-%H%M%S}"
    number, aside = 1, path.with_name(name)
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{name}-{number}")
    return aside


def salvage(damaged: Path, new_db: sqlite3.Connection) -> dict[str, int]:
    """Copy the readable and valid rows of a damaged database; the number of rows by table."""
    uri = f"{damaged.absolute().as_uri()}?mode=ro"
    new_db.execute("BEGIN")
    with suppress(sqlite3.Error), closing(sqlite3.connect(uri, uri=True, timeout=1)) as old_db:
        # Text that isn't UTF-8 may be in a column that hardly matters.
        old_db.text_factory = partial(str, encoding="utf-8", errors="replace")
        for table, (columns, where) in SAVED_TABLES.items():
            if not _copy(old_db, new_db, table, where):  # there are others after it
                _copy(old_db, new_db, table, f"{where} ORDER BY {columns[0]} DESC")
                for key_range in KEY_RANGES.get(table, []):
                    _copy(old_db, new_db, table, f"{columns[0]} BETWEEN ? AND ?", *key_range)
        for table, other_table in (("results", "parts"), ("parts", "results")):
            # A scan of all rows that reads only the keys of damaged ones, without the index, since
            # these mislead a search. Then between two of them, at a key that is known.
            _copy(old_db, new_db, table, f"+key IN (SELECT key FROM {other_table})")
            for (key,) in new_db.execute(f"{ALL_KEYS} EXCEPT SELECT key FROM {table}").fetchall():
                _copy(old_db, new_db, table, "key = ?", key)
    new_db.execute("COMMIT")
    return {t: new_db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in SAVED_TABLES}


def _copy(
    old_db: sqlite3.Connection, new_db: sqlite3.Connection, table: str, where: str, *values: Any
) -> bool:
    """Copy valid rows until one can't be read; whether that didn't happen."""
    columns, is_valid, number = SAVED_TABLES[table][0], ROW_CHECKS.get(table, bool), 0
    insert = f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(columns))})"
    query = f"SELECT {', '.join(columns)} FROM {table} WHERE {where} LIMIT ? OFFSET ?"
    for limit in (-1, 1):  # Python's module drops the last row before one that can't be read
        with suppress(sqlite3.Error, UnicodeDecodeError):
            for row in old_db.execute(query, (*values, limit, number)):
                number += 1
                if is_valid(row):
                    new_db.execute(insert, row)
            return limit < 0
    return False


Row = tuple[Any, ...]


def _decode_or_none(decode: Callable[..., Any], content: Any, kind: Any) -> Any:
    """A decoded value; None if it is damaged."""
    try:
        return decode(content, type=kind)
    except (msgspec.DecodeError, ValueError, TypeError, RecursionError):
        return None


def _is_answer(row: Row) -> bool:
    """Whether a record is a list of answers. Not all damage can be detected."""
    answers = _decode_or_none(msgspec.msgpack.decode, row[1], list[dict[str, Any]])
    return answers is not None and all("text" in answer for answer in answers)


def _is_result(row: Row) -> bool:
    """Whether the outputs are manifests with the right digests."""
    _, outputs, seconds, made, _ = row
    manifests = _decode_or_none(msgspec.json.decode, outputs, dict[str, Manifest])
    are_numbers = isinstance(seconds, float) and isinstance(made, float)
    return are_numbers and manifests is not None and all(map(is_sound, manifests.values()))


def _are_parts(row: Row) -> bool:
    return _decode_or_none(msgspec.json.decode, row[1], Parts) is not None


def _is_place(row: Row) -> bool:
    """Whether a blob may be in a shared store there. Its bytes are checked when it comes."""
    return list(map(type, row)) == [str, int, str, int, str] and row[-1].isprintable()


SAVED_TABLES: dict[str, tuple[tuple[str, ...], str]] = {
    "records": (("key", "value"), "true"),
    "results": (("key", "outputs", "seconds", "made", "run"), "true"),
    "parts": (("key", "parts"), "true"),
    "latest": (("recipe", "step", "key", "previous"), "true"),
    "remote": (("digest", "size", "pack", "offset", "url"), "true"),
    "facts": (
        ("name", "content"),
        "name LIKE 'dollars of %' OR name LIKE 'pin of %' OR name LIKE 'reads of %' "
        "OR name LIKE 'versions of %'",
    ),
}
"""Table → (columns, condition) of the rows to copy. Everything else can be computed again."""
ALL_KEYS = "SELECT key FROM results UNION SELECT key FROM parts UNION SELECT key FROM latest"
"""The keys of steps in a new database."""
KEY_RANGES: dict[str, list[tuple[Any, Any]]] = {
    table: [(f"{n:02x}", f"{n:02x}g") for n in range(256)]
    for table in ("results", "parts", "remote")
} | {"records": [(bytes([n]), bytes([n]) + b"\xff" * 32) for n in range(256)]}
"""Table → ranges of its first column that together are all of it."""
ROW_CHECKS: dict[str, Callable[[Row], bool]] = {
    "records": _is_answer, "results": _is_result, "parts": _are_parts, "remote": _is_place,
}  # fmt: skip
"""Table → whether a row is undamaged, where SQLite's reader can't know."""
