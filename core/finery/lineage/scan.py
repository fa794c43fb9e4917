"""The files of an artifact that name rows by id, and a fast search for some of the rows.

An id is looked for as bytes, and only the lines that hold it are decoded: a gigabyte takes about a
second, whatever the number of rows.
"""

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finery.artifact.kinds import Artifact
from finery.artifact.manifest import Manifest
from finery.rows.dropped import DROPPED, FINDINGS
from finery.rows.files import PREDICTIONS
from finery.rows.generated import GENERATED

MAX_SEARCHED_IDS = 32
"""Maximum number of ids that are searched one by one. With more of them, every line is decoded."""
_CHUNK = 1 << 24

_FILE_KINDS = {
    GENERATED: "generated",
    DROPPED: "dropped",
    FINDINGS: "finding",
    PREDICTIONS: "answer",
}


class RowFile(NamedTuple):
    """A file with a line for each row, or for each record about a row. Rows may be in shards.

    kind: `row`, `generated`, `dropped`, `finding` or `answer`.
    """

    kind: str
    paths: list[Path]


class RowLine(NamedTuple):
    """A line about a row: its number from 1, the row's id and parents, and its text."""

    number: int
    id: str
    parents: list[str]
    line: bytes

    def data(self) -> dict[str, Any]:
        """The complete line."""
        decoded: dict[str, Any] = msgspec.json.decode(self.line)
        return decoded


class _RowIds(msgspec.Struct):
    id: Any = None
    parents: Any = None


class _Drop(msgspec.Struct):
    id: Any = None
    row: _RowIds | None = None


_ROW_DECODER, _DROP_DECODER = msgspec.json.Decoder(_RowIds), msgspec.json.Decoder(_Drop)


def row_files(artifact: Artifact, manifest: Manifest) -> list[RowFile]:
    """The artifact's files that name rows, in a fixed order."""
    shards = sorted(n for n in manifest.files if n.startswith("rows-") and n.endswith(".jsonl"))
    rows = [RowFile("row", [artifact.file(name) for name in shards])] if shards else []
    side_files = [
        RowFile(k, [artifact.file(n)]) for n, k in _FILE_KINDS.items() if n in manifest.files
    ]
    return sorted([*rows, *side_files], key=lambda file: file.kind != "generated")


def lines_about(file: RowFile, ids: Collection[str]) -> Iterator[RowLine]:
    """The lines about rows with one of `ids`, or with a parent among them."""
    needles = [f'"{_escaped(i)}' for i in ids] if len(ids) <= MAX_SEARCHED_IDS else None
    for line in _lines(file, needles):
        if line.id in ids or any(parent in ids for parent in line.parents):
            yield line


def lines_starting(file: RowFile, start: str) -> Iterator[RowLine]:
    """The lines about rows with an id that begins with `start`."""
    return (line for line in _lines(file, [f'"{_escaped(start)}']) if line.id.startswith(start))


def drops_mentioning(file: RowFile, row_id: str) -> Iterator[RowLine]:
    """The rows that were dropped because of a row, e.g. because they repeat it."""
    for line in _lines(file, [_escaped(row_id)]):
        if line.id != row_id and row_id in str(line.data().get("detail")):
            yield line


def _escaped(text: str) -> str:
    return msgspec.json.encode(text)[1:-1].decode()


def _lines(file: RowFile, needles: list[str] | None) -> Iterator[RowLine]:
    """The lines that hold one of `needles`, or all."""
    lines_before = 0
    for path in file.paths:
        if not path.stat().st_size:
            continue
        with path.open("rb") as raw:
            if needles is None:
                number = lines_before
                for number, line in enumerate(raw, lines_before + 1):
                    yield _parse_line(file.kind, number, line)
                lines_before = number
                continue
            with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield from _search_lines(file.kind, content, needles, lines_before)
                if len(file.paths) > 1:
                    lines_before += _count_newlines(content, 0, len(content))


def _search_lines(
    kind: str, content: mmap.mmap, needles: list[str], lines_before: int
) -> Iterator[RowLine]:
    """The lines that hold one of `needles`. lines_before: those in the files before this one."""
    places = {needle: content.find(needle) for needle in map(str.encode, needles)}
    number, counted = lines_before + 1, 0
    while (start := min((p for p in places.values() if p >= 0), default=-1)) >= 0:
        begin = content.rfind(b"\n", 0, start) + 1
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        number += _count_newlines(content, counted, begin)
        counted = begin
        yield _parse_line(kind, number, content[begin:end])
        places = {
            needle: content.find(needle, end) if 0 <= place < end else place
            for needle, place in places.items()
        }


def _count_newlines(content: mmap.mmap, start: int, end: int) -> int:
    starts = range(start, end, _CHUNK)
    return sum(content[start : min(start + _CHUNK, end)].count(b"\n") for start in starts)


def _parse_line(kind: str, number: int, line: bytes) -> RowLine:
    if kind == "dropped":
        drop = _DROP_DECODER.decode(line)
        row_id, parents = drop.id, drop.row.parents if drop.row else None
    else:
        row = _ROW_DECODER.decode(line)
        row_id, parents = row.id, row.parents
    listed = parents if isinstance(parents, list) else []
    return RowLine(number, str(row_id), [*map(str, listed)], line)
