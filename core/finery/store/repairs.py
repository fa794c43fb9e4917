"""Automatic repairs of what something else changed in the store: files, folders, its database."""

import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.manifest import Manifest, manifest


def say(text: str) -> None:
    """Report a repair on stderr. In a worker, that is the step's log."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def make_folder(path: Path) -> None:
    """Create a folder of the store. If its path is taken by something else, rename that."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        aside = set_aside(path)
        path.mkdir(exist_ok=True)
        say(f"{path} wasn't a folder, and was renamed to {aside.name}")


def make_way(path: Path) -> None:
    """Rename a folder, a pipe or a device that is in place of a file."""
    if path.exists() and not path.is_file():
        say(f"{path} wasn't a file, and was renamed to {set_aside(path).name}")


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


def salvage(damaged: Path, new: sqlite3.Connection) -> dict[str, int]:
    """Copy the readable and valid rows of a damaged database; the number of rows by table."""
    uri = f"{damaged.absolute().as_uri()}?mode=ro"
    new.execute("BEGIN")
    for table, (columns, where) in SAVED.items():
        is_valid = VALID.get(table, lambda value: True)
        insert = f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(columns))})"
        # A table is copied up to its first page that can't be read.
        with (
            suppress(sqlite3.Error, UnicodeError),
            closing(sqlite3.connect(uri, uri=True, timeout=1)) as old,
        ):
            rows = old.execute(f"SELECT {', '.join(columns)} FROM {table} {where}")
            new.executemany(insert, (row for row in rows if is_valid(row[1])))
    new.execute("COMMIT")
    return {t: new.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in SAVED}


def _is_answer(value: bytes) -> bool:
    """Whether a record is a list of answers. Not all damage can be detected."""
    try:
        answers = msgspec.msgpack.decode(value)
    except (msgspec.DecodeError, ValueError, TypeError):
        return False
    return isinstance(answers, list) and all(isinstance(a, dict) and "text" in a for a in answers)


def _are_outputs(value: bytes) -> bool:
    """Whether these are manifests with the right digests."""
    try:
        outputs = msgspec.json.decode(value, type=dict[str, Manifest])
    except (msgspec.DecodeError, ValueError, TypeError):
        return False
    return all(map(is_sound, outputs.values()))


def is_sound(made: Manifest) -> bool:
    """Whether a manifest has the digests of its content."""
    refs: Mapping[str, Manifest] = made.refs
    again = manifest(made.kind, made.meta, made.files, refs, made.external, made.runtime)
    return (again.digest, again.view) == (made.digest, made.view) and all(
        map(is_sound, refs.values())
    )


SAVED: dict[str, tuple[tuple[str, ...], str]] = {
    "records": (("key", "value"), ""),
    "results": (("key", "outputs", "seconds", "made", "run"), ""),
    "parts": (("key", "parts"), ""),
    "latest": (("recipe", "step", "key", "previous"), ""),
    "facts": (("name", "content"), "WHERE name LIKE 'dollars of %' OR name LIKE 'pin of %'"),
}
"""Table → (columns, condition) of the rows to copy. Everything else can be computed again."""
VALID: dict[str, Callable[[Any], bool]] = {"records": _is_answer, "results": _are_outputs}
"""Table → whether the second column of a row is undamaged, where SQLite's reader can't know."""
