"""The files of artifacts: rows, predictions, and records next to rows, all as UTF-8 JSON lines.

The kinds of artifacts name the functions here that write them, whose code is in the key of every
step that makes one, and those that read them, in the key of every step that takes one.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from finery.errors import DataError
from finery.rows.row import Row, row_id

if TYPE_CHECKING:
    from finery.artifact.kinds import Artifact


SHARD_BYTES = 64 * 1024 * 1024
"""A shard that has this many bytes is followed by another."""


class WrittenRows(NamedTuple):
    """The number of rows that were written, and the sorted names of all their columns."""

    rows: int
    columns: list[str]


def write_rows(folder: Path, rows: Iterable[Row]) -> WrittenRows:
    """Write rows (a stream is fine) into `folder`, giving an `id` to each without one."""
    folder.mkdir(parents=True, exist_ok=True)
    count, columns = 0, dict[str, None]()
    shard, out = 0, _shard(folder, 0).open("wb")
    try:
        for row in rows:
            count += 1
            try:
                whole = with_id(row)
                line = msgspec.json.encode(whole)
            except (TypeError, ValueError, OverflowError, RecursionError) as error:
                raise TypeError(f"row {count} can't be written as JSON: {error}") from error
            columns.update(dict.fromkeys(whole))
            if out.tell() >= SHARD_BYTES:
                out.close()
                shard += 1
                out = _shard(folder, shard).open("wb")
            out.write(line + b"\n")
    finally:
        out.close()
    return WrittenRows(count, sorted(columns))


def with_id(row: Row) -> Row:
    """The row itself if it has an `id`, else a copy with one."""
    return row if "id" in row else {"id": row_id(row), **row}


def _shard(folder: Path, number: int) -> Path:
    return folder / f"rows-{number:05d}.jsonl"


def read_rows(folder: Path) -> Iterator[Row]:
    """The rows of all shards, in order."""
    names = os.listdir(folder) if folder.is_dir() else []
    for name in sorted(names):  # `glob` compiles its pattern in each process
        if name.startswith("rows-") and name.endswith(".jsonl"):
            yield from _read_objects(folder / name)


READ_ERRORS = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, FileNotFoundError)
"""What reading a file raises that no version of finery wrote, such as one from a shared store."""


def _read_objects(file: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file, each of which is a JSON object."""
    number = 0
    try:
        with file.open("rb") as lines:
            for line in lines:
                number += 1
                yield msgspec.json.decode(line, type=dict[str, Any])
    except READ_ERRORS as error:
        raise unusable_file_error(
            f"{file}:{number}", f"this line isn't a JSON object ({error})"
        ) from error


def unusable_file_error(where: str, problem: str) -> DataError:
    """The error for a file that can't be read."""
    return DataError(problem, where=where, fix="make it again: finery build --force STEP")


PREDICTIONS = "predictions.jsonl"


def write_predictions(folder: Path, predictions: Iterable[Mapping[str, Any]]) -> None:
    """Write `predictions.jsonl`: a line for each answer, by row id."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PREDICTIONS).open("wb") as out:
        for prediction in predictions:
            out.write(msgspec.json.encode(prediction) + b"\n")


def read_predictions(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of `predictions.jsonl`."""
    return _read_objects(folder / PREDICTIONS)


class SideFile:
    """Writes one line by line, as a context manager around the writing of the rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._out: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._out is not None:
            self._out.close()

    def write(self, line: bytes) -> None:
        """Write a line, given without its end."""
        if self._out is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._out = self._path.open("wb")
        self._out.write(line + b"\n")


def lines_of(dataset: "Artifact", name: str) -> Iterator[bytes]:
    """The lines of a file, in order; empty if the file doesn't exist."""
    path = dataset.file(name)
    if path.is_file():
        with path.open("rb") as lines:
            yield from lines
