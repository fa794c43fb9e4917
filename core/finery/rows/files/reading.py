"""The rows of a data set, read from its files; see `writing`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from finery.rows.row import Row


def read_rows(folder: Path) -> "Iterator[Row]":
    """The rows of all shards, in order."""
    for shard in sorted(folder.glob("rows-*.jsonl")):
        with shard.open("rb") as lines:
            for line in lines:
                yield msgspec.json.decode(line)
