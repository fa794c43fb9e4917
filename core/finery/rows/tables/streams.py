"""Opening a file's bytes, whether it is plain, gzip or zstd, and in whatever encoding."""

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from finery.errors import DataError, UsageError
from finery.util.paths import shown

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
CHUNK_BYTES = 1 << 20
UTF_8 = "utf-8"
UTF_8_MARK = b"\xef\xbb\xbf"
UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def open_bytes(path: Path) -> Iterator[io.BufferedReader]:
    """The file's bytes, decompressed; damage and unreadable files become `DataError`s.

    What the bytes are decides, not the name: a file's name isn't part of a step's key.
    """
    try:
        with path.open("rb") as raw, report_damage(shown(path)):
            yield decompress(raw)
    except OSError as error:
        raise DataError(
            f"the file can't be read: {error.strerror or error}",
            where=shown(path),
            fix="check that it is there and that you may read it",
        ) from error


@contextmanager
def report_damage(name: str) -> Iterator[None]:
    """Turn errors from decompressing a damaged file into a `DataError`."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, _DamagedError) as error:
        raise DataError(
            f"the compressed file is damaged: {error}",
            where=name,
            fix="copy or download it again",
        ) from error


def is_compressed(path: Path) -> bool:
    """Whether a file is gzip or zstd. The caller handles `OSError`."""
    with path.open("rb") as raw:
        return raw.read(4).startswith((GZIP_MAGIC, ZSTD_MAGIC))


def decompress(raw: io.BufferedReader) -> io.BufferedReader:
    """The stream of a file's content, which may be gzip or zstd."""
    magic = raw.read(4)
    raw.seek(0)
    if magic.startswith(GZIP_MAGIC):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), CHUNK_BYTES)
    if magic == ZSTD_MAGIC:
        return io.BufferedReader(_ZstdReader(raw), CHUNK_BYTES)
    return raw


def recode(name: str, stream: io.BufferedReader, encodings: Sequence[str]) -> io.BufferedReader:
    """The stream as UTF-8. name: of the file, for errors.

    encodings: one for the whole stream, or several, of which the first that fits reads a line.
    """
    return io.BufferedReader(_LineStream(_recode_lines(name, stream, encodings)), CHUNK_BYTES)


def _recode_lines(
    name: str, stream: io.BufferedReader, encodings: Sequence[str]
) -> Iterator[bytes]:
    # In UTF-16, the byte of a line break may be part of a letter.
    is_wide = "\n".encode(encodings[0]) != b"\n"
    likely = detect_encoding(stream.peek(4)[:4])
    if likely in (None, *(codecs.lookup(name).name for name in encodings)):
        likely = "the one that the file was saved in"
    lines = io.TextIOWrapper(stream, encodings[0], newline="") if is_wide else stream
    number = 0
    try:
        for line in lines:
            number += 1
            if isinstance(line, bytes):
                line = line.decode(
                    next((n for n in encodings if is_decodable(line, n)), encodings[-1])
                )
            yield line.encode("utf-8", "surrogatepass")
    except UnicodeError as error:
        problem = "the start of the file, with no mark of a byte order,"
        if isinstance(error, UnicodeDecodeError):
            problem = f"a byte (0x{error.object[error.start]:02x})"
        raise DataError(
            f"{problem} isn't {' or '.join(encodings)}",
            where=name if is_wide else f"{name}:{number}",
            fix=f"set `encoding` to {likely}",
        ) from error


def is_decodable(line: bytes, encoding: str) -> bool:
    """Whether a line can be in this encoding."""
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def detect_encoding(start: bytes) -> str | None:
    """The encoding that the first bytes of a text show, by their mark or by NULs; None if none."""
    if start.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if start.startswith((UTF_8_MARK, *UTF_16_MARKS)):
        return UTF_8 if start.startswith(UTF_8_MARK) else "utf-16"
    # A broken row of UTF-8 may have a NUL, but UTF-16 has one in each line break. (Its letters may
    # have the byte of a line break, too.)
    if start.count(0) < max(2, start.count(b"\n") // 2) or not start.strip(b"\0"):
        return None
    order = "le" if start[1::2].count(0) > start[::2].count(0) else "be"
    return f"utf-32-{order}" if b"\0\0\0" in start else f"utf-16-{order}"


class _PieceStream(io.RawIOBase):
    """A stream of bytes that come in pieces."""

    _ready: "bytes | memoryview" = b""

    def _next(self) -> "bytes | memoryview":
        """The next piece; empty at the end."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._ready = self._ready or self._next()
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size


class _LineStream(_PieceStream):
    """A stream of the lines that an iterator gives."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines

    def _next(self) -> bytes:
        return next(self._lines, b"")


class _DamagedError(Exception):
    """A zstd file that is cut short or broken."""


class _ZstdReader(_PieceStream):
    """The content of all frames of a zstd file.

    The library's own reader doesn't notice that a file is cut short.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._frame: Any = None
        self._rest = b""

    def _next(self) -> memoryview:
        ready = memoryview(b"")
        while not ready and (source := self._rest or self._raw.read(CHUNK_BYTES)):
            ready = memoryview(self._decompress(source))
        if not ready and self._frame is not None:
            raise _DamagedError("it ends in the middle of a zstd frame")
        return ready

    def _decompress(self, source: bytes) -> bytes:
        zstandard = load_extra("zstandard", "zstandard")
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            content: bytes = self._frame.decompress(source)
        except zstandard.ZstdError as error:
            raise _DamagedError(str(error)) from error
        self._rest = b""
        if self._frame.eof:
            self._rest = self._frame.unused_data
            self._frame = None
        return content


def load_extra(module: str, distribution: str) -> Any:
    """Import what only some files need; `UsageError` with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"reading this file needs the package {distribution}",
            fix="pip install 'finery[data]'",
        ) from error
