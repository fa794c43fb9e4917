"""The rows of a data set as files: UTF-8 JSON lines in shards `rows-00000.jsonl`, …"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec

from finery.rows.row import Row, row_id

SHARD_BYTES = 64 * 1024 * 1024
"""A shard that has this many bytes is followed by another."""


class Written(NamedTuple):
    """The number of rows that were written, and the sorted names of all their columns."""

    rows: int
    columns: list[str]


def write_rows(folder: Path, rows: Iterable[Row]) -> Written:
    """Write rows (a stream is fine) into `folder`, giving an `id` to each without one."""
    folder.mkdir(parents=True, exist_ok=True)
    count, columns = 0, dict[str, None]()
    shard, out = 0, _shard(folder, 0).open("wb")
    try:
        for row in map(with_id, rows):
            columns.update(dict.fromkeys(row))
            count += 1
            if out.tell() >= SHARD_BYTES:
                out.close()
                shard += 1
                out = _shard(folder, shard).open("wb")
            out.write(msgspec.json.encode(row) + b"\n")
    finally:
        out.close()
    return Written(count, sorted(columns))


def with_id(row: Row) -> Row:
    """The row itself if it has an `id`, else a copy with one."""
    return row if "id" in row else {"id": row_id(row), **row}


def _shard(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:05d}.jsonl"
