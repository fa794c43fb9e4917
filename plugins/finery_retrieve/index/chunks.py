"""The chunks of an index on disk: a line each, and where each line begins."""

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from finery.rows import Row

FORMAT = "retrieve"
"""`meta["format"]` of an index that `Retriever` can search."""
CHUNKS, OFFSETS = "chunks.jsonl", "offsets.npy"
PLACES = ("line", "page")


class Chunk(msgspec.Struct, frozen=True, omit_defaults=True):
    """A text to retrieve.

    place: `{"line": 12}` or `{"page": 3}`, where it begins in its source. tokens: of its text as
    prompts contain it; None in an index without `tokenizer`.
    """

    id: str
    text: str
    source: str = ""
    heading: str = ""
    place: dict[str, int] = {}
    tokens: int | None = None

    @property
    def searched(self) -> str:
        """The text that finds it: its own, below its headings if it lacks the last of them."""
        last = self.heading.rpartition(" > ")[2]
        return self.text if last in self.text else f"{self.heading}\n{self.text}"

    @classmethod
    def of(cls, row: Row, text: str) -> "Chunk":
        """The chunk of a row, as `docs.files` makes them; other rows need have only a text."""
        place = {name: row[name] for name in PLACES if type(row.get(name)) is int}  # no bool
        source, heading = (str(row.get(name) or "") for name in ("source", "heading"))
        return cls(str(row["id"]), text, source, heading, place)


class ChunkWriter:
    """Writes chunks one by one, as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets = [0]

    def __enter__(self) -> Self:
        self._out = (self._folder / CHUNKS).open("wb")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._out.close()
        if error is None:
            import numpy as np

            np.save(self._folder / OFFSETS, np.asarray(self._offsets, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def add(self, chunk: Chunk) -> None:
        """Write the next chunk."""
        self._offsets.append(
            self._offsets[-1] + self._out.write(msgspec.json.encode(chunk) + b"\n")
        )


class Chunks:
    """Reads chunks by number. May be used from several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> Chunk:
        start, stop = int(self._offsets[number]), int(self._offsets[number + 1])
        lines = self._lines  # stays open while it is read, whatever other threads do
        return msgspec.json.decode(os.pread(lines.fileno(), stop - start, start), type=Chunk)

    def __iter__(self) -> Iterator[Chunk]:
        with (self._folder / CHUNKS).open("rb") as lines:
            for line in lines:
                yield msgspec.json.decode(line, type=Chunk)

    def number(self, id: str) -> int | None:
        """The number of the chunk with an id."""
        return self._numbers.get(id)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {chunk.id: number for number, chunk in enumerate(self)}

    @cached_property
    def _offsets(self) -> Any:
        import numpy as np

        return np.load(self._folder / OFFSETS, mmap_mode="r")

    @cached_property
    def _lines(self) -> BinaryIO:
        return (self._folder / CHUNKS).open("rb")
