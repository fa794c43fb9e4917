"""Reads the rows of a damaged SQLite file page by page, without its header or schema.

Layout: https://sqlite.org/fileformat2.html. All tables of the store are `WITHOUT ROWID`: SQLite
keeps those as index b-trees, whose leaf and interior pages hold whole rows.
"""

import os
import struct
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

PAGE = 4096
"""Page size in bytes if the header is damaged: SQLite's default, which the store uses."""
INTERIOR, LEAF = 0x02, 0x0A
"""First byte of an index page."""
COLUMNS = 64
"""Most columns of a row; the store has no wider tables."""
LARGEST = 1 << 28
"""Most bytes of a row, since a damaged length can be any number."""
WAL_HEAD, FRAME_HEAD = 32, 24

Value = None | int | float | str | bytes
Row = tuple[Value, ...]


def rows_in(database: Path) -> Iterator[Row]:
    """Every row that can be decoded, from all tables and from unused pages.

    A row may occur more than once. The caller must validate the values, since damage inside a value
    can't be detected here.
    """
    pages = _Pages(database)
    for number in range(1, pages.count + 1):
        page = pages.get(number)
        yield from _rows_on(page, 100 if number == 1 else 0, pages)


class _Pages:
    """Pages by number, from the file or, if newer, from its write-ahead log."""

    def __init__(self, database: Path) -> None:
        self._content = _mapped(database)
        self.size = _page_size(self._content)
        wal = database.with_name(f"{database.name}-wal")
        self._newer = _committed(wal.read_bytes(), self.size) if wal.is_file() else {}
        self.count = max([len(self._content) // self.size, *self._newer])

    def get(self, number: int) -> bytes:
        if number in self._newer:
            return self._newer[number]
        return self._content[(number - 1) * self.size : number * self.size]


def _mapped(path: Path) -> "mmap | bytes":
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        return mmap(file.fileno(), 0, access=ACCESS_READ) if size else b""


def _page_size(content: "mmap | bytes") -> int:
    if len(content) < 100 or content[:16] != b"SQLite format 3\0":
        return PAGE
    size = int.from_bytes(content[16:18])
    size = 65536 if size == 1 else size
    return size if size >= 512 and size & (size - 1) == 0 else PAGE


def _committed(wal: bytes, size: int) -> dict[int, bytes]:
    """Page number → content of the last committed version in a write-ahead log."""
    salts, pages, pending = wal[16:24], dict[int, bytes](), dict[int, bytes]()
    for start in range(WAL_HEAD, len(wal) - FRAME_HEAD - size + 1, FRAME_HEAD + size):
        number, commit = struct.unpack_from(">II", wal, start)
        if wal[start + 8 : start + 16] != salts or number == 0:
            break  # left from an earlier use of the log
        pending[number] = wal[start + FRAME_HEAD : start + FRAME_HEAD + size]
        if commit:
            pages |= pending
            pending = {}
    return pages


def _rows_on(page: bytes, start: int, pages: _Pages) -> Iterator[Row]:
    if len(page) < start + 12 or page[start] not in (INTERIOR, LEAF):
        return
    is_leaf = page[start] == LEAF
    cells = int.from_bytes(page[start + 3 : start + 5])
    pointers = start + (8 if is_leaf else 12)
    for place in range(pointers, min(pointers + 2 * cells, len(page) - 1), 2):
        offset = int.from_bytes(page[place : place + 2]) + (0 if is_leaf else 4)
        try:
            row = _row(_payload(page, offset, pages))
        except (IndexError, ValueError, struct.error):
            continue
        yield row


def _payload(page: bytes, offset: int, pages: _Pages) -> bytes:
    """The content of a cell, including overflow pages. Raises `ValueError` if it isn't a cell."""
    length, offset = _varint(page, offset)
    if not 2 <= length <= LARGEST:
        raise ValueError
    usable = pages.size
    most, least = (usable - 12) * 64 // 255 - 23, (usable - 12) * 32 // 255 - 23
    if length <= most:
        return _exactly(page[offset : offset + length], length)
    local = least + (length - least) % (usable - 4)
    local = local if local <= most else least
    parts, rest = [_exactly(page[offset : offset + local], local)], length - local
    following = int.from_bytes(page[offset + local : offset + local + 4])
    while rest > 0:
        if not 1 <= following <= pages.count:
            raise ValueError
        page = pages.get(following)
        part = _exactly(page[4 : 4 + min(rest, usable - 4)], min(rest, usable - 4))
        following = int.from_bytes(page[:4])
        parts.append(part)
        rest -= len(part)
    return b"".join(parts)


def _exactly(part: bytes, length: int) -> bytes:
    if len(part) != length:
        raise ValueError
    return part


def _row(payload: bytes) -> Row:
    """The values of a record. Raises `ValueError` or `IndexError` if it isn't one."""
    head, offset = _varint(payload, 0)
    kinds = []
    while offset < head:
        kind, offset = _varint(payload, offset)
        kinds.append(kind)
        if len(kinds) > COLUMNS:
            raise ValueError
    values = []
    for kind in kinds:
        value, offset = _value(payload, kind, offset)
        values.append(value)
    if offset != len(payload):
        raise ValueError
    return tuple(values)


_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
"""Serial type of an integer → its size in bytes."""


def _value(payload: bytes, kind: int, offset: int) -> tuple[Value, int]:
    if kind == 0:
        return None, offset
    if kind in (8, 9):
        return kind - 8, offset
    if kind in _INTEGERS:
        length = _INTEGERS[kind]
        part = _exactly(payload[offset : offset + length], length)
        return int.from_bytes(part, signed=True), offset + length
    if kind == 7:
        number: float = struct.unpack_from(">d", payload, offset)[0]
        return number, offset + 8
    if kind < 12:
        raise ValueError
    length = (kind - 12) // 2
    part = _exactly(payload[offset : offset + length], length)
    return (part.decode() if kind % 2 else part), offset + length


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """A big-endian number of 1 to 9 bytes, and the offset after it."""
    number = 0
    for index in range(9):
        byte = data[offset + index]
        if index == 8:
            return number << 8 | byte, offset + 9
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return number, offset + index + 1
