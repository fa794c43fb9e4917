"""The rows of a data set, to be read in any order while memory stays flat."""

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from finery import Dataset
from finery.rows import Row
from finery.rows.parts import id_of
from finery_review.decisions import parents_of, prompt_hash


class RowFile:
    """Rows by number, from 0. Keeps the files open, so that a new build can't remove them.

    ids, labels: of each row; a label is None if it is missing or isn't text. Some 200 bytes of each
    row stay in memory.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.ids: list[str] = []
        self.labels: list[str | None] = []
        self._parents: dict[int, tuple[str, ...]] = {}
        self._prompts: dict[int, str] = {}
        self._numbers: dict[str, list[int]] = {}
        self._shards: list[BinaryIO] = []
        self._shard, self._start, self._length = array("H"), array("Q"), array("Q")
        self.preferences = 0
        self.scored = False
        for path in sorted(dataset.path.glob("rows-*.jsonl")):
            self._add(path.open("rb"))

    def _add(self, shard: BinaryIO) -> None:
        self._shards.append(shard)
        start = 0
        for line in shard:
            self._index(msgspec.json.decode(line))
            self._shard.append(len(self._shards) - 1)
            self._start.append(start)
            self._length.append(len(line))
            start += len(line)

    def _index(self, row: Row) -> None:
        number, name, label = len(self.ids), id_of(row), row.get("label")
        self.ids.append(name)
        self._numbers.setdefault(name, []).append(number)
        self.labels.append(label if isinstance(label, str) else None)
        parents = parents_of(row)
        if parents:
            self._parents[number] = parents
        self.preferences += "chosen" in row and "rejected" in row
        self.scored |= "score" in row or "judge" in row

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> Row:
        row: Row = msgspec.json.decode(self.raw(number))
        return row

    def raw(self, number: int) -> bytes:
        """The row's line."""
        shard = self._shards[self._shard[number]]
        return os.pread(shard.fileno(), self._length[number], self._start[number])

    def numbers(self, row_id: str) -> list[int]:
        """The rows with this id; copies of a row share one."""
        return self._numbers.get(row_id, [])

    def parents(self, number: int) -> tuple[str, ...]:
        """The ids of the rows that a row was made from."""
        return self._parents.get(number, ())

    def prompt(self, number: int) -> str:
        """`prompt_hash` of a row, computed when it is first needed."""
        if number not in self._prompts:
            self._prompts[number] = prompt_hash(self[number])
        return self._prompts[number]

    def label_counts(self) -> dict[str, int]:
        """Label → rows, the most frequent first."""
        counts = Counter(label for label in self.labels if label is not None)
        return dict(counts.most_common())

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def close(self) -> None:
        """Close the files."""
        for shard in self._shards:
            shard.close()
