"""Values on disk by number, so that waiting values take no memory."""

import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

A = TypeVar("A")


class Spool(Generic[A]):
    """Values on disk, several under each number, read in the order of the numbers.

    folder: where its unnamed file is. kind: the values' type, for msgspec.
    """

    def __init__(self, folder: Path, kind: type[A]) -> None:
        self._file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (open as long as the spool)
        self._last = array("q")  # number → start of its newest record; -1: none
        self._counts = array("I")
        self._decode = msgspec.msgpack.Decoder(tuple[int, kind])  # type: ignore[valid-type]
        self._encode = msgspec.msgpack.Encoder()

    def add(self, number: int, value: A) -> None:
        """Add a value under a number, after earlier ones."""
        if missing := number + 1 - len(self._last):
            self._last.extend([-1] * max(0, missing))
            self._counts.extend([0] * max(0, missing))
        content = self._encode.encode((self._last[number], value))
        self._last[number] = self._file.seek(0, 2)
        self._counts[number] += 1
        self._file.write(len(content).to_bytes(4, "little") + content)

    def count(self, number: int) -> int:
        """The number of values under a number."""
        return self._counts[number] if number < len(self._counts) else 0

    def of(self, number: int) -> list[A]:
        """The values under a number, in the order in which they were added."""
        values: list[A] = []
        place = self._last[number] if number < len(self._last) else -1
        while place >= 0:
            place, value = self._read(place)
            values.append(value)
        return values[::-1]

    def numbers(self) -> Iterator[int]:
        """The numbers that have values, in order."""
        return (number for number, count in enumerate(self._counts) if count)

    def __iter__(self) -> Iterator[tuple[int, A]]:
        """(number, value), in order of the numbers."""
        for number in self.numbers():
            yield from ((number, value) for value in self.of(number))

    def close(self) -> None:
        """Free the disk space."""
        self._file.close()

    def _read(self, place: int) -> tuple[int, A]:
        self._file.seek(place)
        size = int.from_bytes(self._file.read(4), "little")
        return self._decode.decode(self._file.read(size))
