"""Copies readable data from a damaged database to a new one."""

import math
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.manifest import Manifest, manifest
from finery.store.pages import Row, rows_in

HEX = frozenset("0123456789abcdef")
SPENT = "dollars of "
"""Prefix of the facts about costs, see `finery.store.spending`."""
SAVED = {
    "records": "SELECT key, value FROM records",
    "results": "SELECT key, outputs, seconds, made, run FROM results",
    "parts": "SELECT key, parts FROM parts",
    "latest": "SELECT recipe, step, key, previous FROM latest",
    "facts": "SELECT name, content FROM facts WHERE name LIKE 'dollars of %'",
}
"""Data to copy, by table. Everything else can be computed again."""


def salvage(damaged: Path, new: sqlite3.Connection) -> dict[str, int]:
    """Copy the readable and valid rows of a damaged database; the number of rows by table.

    Rows are read through SQLite, which finds the newest version of each. If that fails, the missing
    rows are read page by page.
    """
    new.execute("BEGIN")
    complete = [_by_query(damaged, new, table) for table in SAVED]
    if not all(complete):
        _keep(new, _by_page(damaged), "IGNORE")
    new.execute("COMMIT")
    count = "SELECT count(*) FROM "
    return {table: new.execute(count + table).fetchone()[0] for table in SAVED}


def _by_query(damaged: Path, new: sqlite3.Connection, table: str) -> bool:
    """Copy a table through SQLite; whether all of it could be read."""
    try:
        old = sqlite3.connect(f"{damaged.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
    except sqlite3.Error:
        return False
    try:
        _keep(new, old.execute(SAVED[table]), "REPLACE", table)
    except (sqlite3.Error, UnicodeError):
        return False
    finally:
        old.close()
    return True


def _by_page(damaged: Path) -> Iterator[Row]:
    try:
        yield from rows_in(damaged)
    except (OSError, ValueError):  # a folder, or missing
        return


def _keep(new: sqlite3.Connection, rows: Iterable[Any], conflict: str, table: str = "") -> None:
    """Insert the valid rows. table: their table; by default, found by their form."""
    for row in rows:
        name = _table_of(row)
        if name is not None and name == (table or name):
            marks = ",".join("?" * len(row))
            new.execute(f"INSERT OR {conflict} INTO {name} VALUES ({marks})", row)


def _table_of(row: Row) -> str | None:
    """The table of a row; None if the row is damaged or of another table."""
    match row:
        case (bytes(key), bytes(value)) if len(key) == 32 and _is_answer(value):
            return "records"
        case (str(key), bytes(parts)) if _is_key(key) and _is_json(parts, list[tuple[str, Any]]):
            return "parts"
        case (str(name), bytes(dollars)) if name.startswith(SPENT) and _is_number(dollars):
            return "facts"
        case (str(key), bytes(outputs), float() | int(), float() | int(), str()):
            return "results" if _is_key(key) and _are_outputs(outputs) else None
        case (str(), str(), str(key), previous) if _is_key(key):
            return "latest" if previous is None or _is_key(previous) else None
    return None


def _is_number(value: bytes) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _is_key(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and HEX.issuperset(value)


def _is_answer(value: bytes) -> bool:
    """Whether a record is a list of answers. Not all damage can be detected."""
    try:
        answers = msgspec.msgpack.decode(value)
    except (msgspec.DecodeError, UnicodeError, ValueError):
        return False
    return isinstance(answers, list) and all(isinstance(a, dict) and "text" in a for a in answers)


def _is_json(value: bytes, kind: Any) -> bool:
    try:
        msgspec.json.decode(value, type=kind)
    except (msgspec.DecodeError, UnicodeError, ValueError):
        return False
    return True


def _are_outputs(value: bytes) -> bool:
    """Whether these are manifests with the right digests."""
    try:
        outputs = msgspec.json.decode(value, type=dict[str, Manifest])
    except (msgspec.DecodeError, UnicodeError, ValueError):
        return False
    return all(map(_is_sound, outputs.values()))


def _is_sound(made: Manifest) -> bool:
    refs: Mapping[str, Manifest] = made.refs
    again = manifest(made.kind, made.meta, made.files, refs, made.external, made.runtime)
    return (again.digest, again.view) == (made.digest, made.view) and all(
        map(_is_sound, refs.values())
    )
