"""The rows of a query, as kept when it was pinned, named by their digest.

A file of JSON lines. The first line is `[columns]`, followed by the names of columns with bytes,
whose content rows can't hold and which isn't kept; or `[null, [], what, fix]` for a record that
can't be read.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from finery import StepError
from finery.rows.badrow import BadRow
from finery.rows.tables.records import Record
from finery.rows.tables.values import has_bytes

DIGITS = 32
BLOCK = 1 << 20


class Kept(NamedTuple):
    """Rows that are kept: how many, and the digest of all of them in their order."""

    rows: int
    digest: str


class _Line(msgspec.Struct, array_like=True):
    columns: dict[str, Any] | None
    opaque: list[str] = []
    what: str = ""
    fix: str | None = None


def pinned_as(rows: Kept) -> str:
    """The entry of recipe.lock for kept rows."""
    return f"{rows.rows:,} {'row' if rows.rows == 1 else 'rows'}, {rows.digest}"


def keep(records: Iterable[Record], folder: Path) -> Kept:
    """Write records into `folder`, which all steps share."""
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f".sql.{os.getpid()}"
    count, digest = 0, blake3()
    try:
        with staged.open("wb") as out:
            for record in records:
                line = msgspec.json.encode(_line(record)) + b"\n"
                out.write(line)
                digest.update(line)
                count += 1
        snapshot = Kept(count, digest.hexdigest()[:DIGITS])
        staged.replace(_path(folder, snapshot.digest))
    except OSError as error:
        raise StepError(
            f"the query's rows can't be snapshot: {error.strerror or error}", where=str(folder)
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return snapshot


def read(folder: Path, pinned: str, place: str) -> Iterator[Record] | None:
    """The pinned records; None if they aren't kept here, or not completely.

    place: the name of the database in errors.
    """
    path = _path(folder, pinned.rpartition(" ")[2])
    try:
        digest = blake3()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError:
        return None
    return _records(path, place) if path.stem == digest.hexdigest()[:DIGITS] else None


def _records(path: Path, place: str) -> Iterator[Record]:
    decoder = msgspec.json.Decoder(_Line)
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            line, where = decoder.decode(text), f"{place} (row {number})"
            if line.columns is None:
                yield Record(where, BadRow(line.what, line.fix))
            else:
                yield Record(where, line.columns | dict.fromkeys(line.opaque, b""))


def _line(record: Record) -> _Line:
    if isinstance(record.columns, BadRow):
        return _Line(None, [], record.columns.what, record.columns.fix)
    opaque = [name for name, value in record.columns.items() if has_bytes(value)]
    return _Line({n: v for n, v in record.columns.items() if n not in opaque}, opaque)


def _path(folder: Path, digest: str) -> Path:
    return folder / f"{digest}.jsonl"
