"""Tables: files of rows, each row with its place in the file.

JSON lines, JSON documents, CSV and TSV are told apart by their content (a `.json` file may contain
JSON lines, a `.csv` file may be separated by tabs or semicolons). A file's name isn't part of a
step's key, so the same bytes must always give the same rows.
"""

import csv
import io
import itertools
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from finery.errors import DataError
from finery.rows.answers.jsonvalues import DuplicateKey, object_with_unique_keys
from finery.rows.badrow import BadRow, kind_of
from finery.rows.row import TURN_COLUMNS
from finery.rows.tables.streams import (
    CHUNK_BYTES,
    UTF_8,
    UTF_8_MARK,
    UTF_16_MARKS,
    detect_encoding,
    is_compressed,
    is_decodable,
    load_extra,
    open_bytes,
    recode,
)
from finery.rows.tables.values import json_value
from finery.util.paths import shown
from finery.util.text import counted, suggest_nearest

COMPRESSED = (".gz", ".zst")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
DELIMITED_SUFFIXES = (".csv", ".tsv")
SUFFIXES = (*JSON_SUFFIXES, *DELIMITED_SUFFIXES, ".parquet")
SPREADSHEETS = (".xlsx", ".xls", ".ods", ".numbers")
ROW_COLUMNS = frozenset({*TURN_COLUMNS, "conversations"})
"""Columns that hold a list of objects in a single row: never taken for the list of all rows."""
PARQUET_BATCH = 1024
MAX_LISTED_LINES = 5
"""Number of lines in another encoding that an error names."""
_SPACE = re.compile(r"[ \t\r\n]*")
_LINE = re.compile(r":(\d+)(?: \(row \d+\))?$|\(row (\d+)\)$")
_SAMPLE = re.compile(r".{0,20}[^\x00-\x7f].{0,20}")
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class Record(NamedTuple):
    """One row as the file has it: its place, and its columns or why they can't be read."""

    where: str
    columns: dict[str, Any] | BadRow

    @property
    def line(self) -> str:
        """The place without the file's name, which isn't part of keys: `line 4`, or `row 4`."""
        match = _LINE.search(self.where)
        return f"{(match[1] and 'line') or 'row'} {match[1] or match[2]}" if match else self.where

    def dropped(self) -> dict[str, Any]:
        """What `dropped.jsonl` records of it: the columns that can be read."""
        return self.columns if isinstance(self.columns, dict) else {}


def read_table(path: Path, scratch: Path, encodings: Sequence[str] = (UTF_8,)) -> Iterator[Record]:
    """The rows of a file, in order, as a stream.

    scratch: a folder for the decompressed copy of a compressed Parquet file. encodings: of a text
    file, see `recode`. Raises `DataError` if the complete file is unreadable. A problem with a
    single row is that row's `BadRow`.
    """
    advice = ""
    try:
        for record in _read_records(path, scratch, encodings):
            problem = record.columns
            if isinstance(problem, BadRow) and problem.fix == _SAVE_AS_UTF8:
                problem.fix = advice = advice or diagnose_encoding(path).fix
            yield record
    except DataError as error:
        if error.fix == _SAVE_AS_UTF8:
            error.fix = diagnose_encoding(path).fix
        raise


def _read_records(path: Path, scratch: Path, encodings: Sequence[str]) -> Iterator[Record]:
    suffix = table_suffix(path)
    with open_bytes(path) as stream:
        if suffix == ".parquet":
            copy = scratch / "table.parquet" if is_compressed(path) else None
            yield from _read_parquet(shown(path), stream, copy)
            return
        if [*encodings] != [UTF_8]:
            stream = recode(shown(path), stream, encodings)
        if suffix in JSON_SUFFIXES:
            yield from read_json(shown(path), stream)
        else:
            yield from _read_delimited(shown(path), _skip_byte_order_mark(shown(path), stream))


def data_suffix(name: str) -> str:
    """`.csv` of `x.csv` and of `x.csv.gz`."""
    name = name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix


def table_suffix(path: Path) -> str:
    """`.csv` of `x.csv` and of `x.csv.gz`; `DataError` if no reader goes with it."""
    suffix = data_suffix(path.name)
    if suffix in SUFFIXES:
        return suffix
    kind = f"files named '*{suffix}'" if suffix else "files without a suffix"
    fix = f"convert it to one of: {', '.join(SUFFIXES)}"
    if suffix in SPREADSHEETS:
        fix = "save the sheet as CSV, in UTF-8 if the program offers it"
    raise DataError(
        f"{kind} aren't tables that finery reads",
        where=shown(path),
        fix=suggest_nearest(suffix, SUFFIXES) or fix,
    )


def _skip_byte_order_mark(name: str, stream: io.BufferedReader) -> io.BufferedReader:
    """The stream after its byte order mark, if it has one."""
    actual = detect_encoding(stream.peek(4)[:4])
    if actual == UTF_8:
        stream.read(len(UTF_8_MARK))
    elif actual:
        problem = f"the file is {actual.upper()}, not UTF-8"
        fix = f"set `encoding: {actual}` in data.file, or convert it: iconv -f {actual} -t utf-8"
        raise DataError(problem, where=name, fix=fix)
    return stream


# JSON


def read_json(name: str, stream: io.BufferedReader) -> Iterator[Record]:
    """Rows of JSON lines, or of one JSON document: an array, or an object that holds one.

    name: of the file, in the places of its rows.
    """
    lines = _numbered_lines(_skip_byte_order_mark(name, stream))
    first_line = next(lines, None)
    if first_line is None:
        return
    second = next(lines, None)
    head = [line for line in (first_line, second) if line is not None]
    if _starts_document(first_line[1], alone=second is None):
        head_bytes = b"\n" * (first_line[0] - 1) + first_line[1]
        rest_bytes = (second[1] if second else b"") + stream.read()
        gap = b"\n" * (second[0] - first_line[0] - 1) if second else b""
        yield from _read_document(name, head_bytes + gap + rest_bytes)
        return
    for number, line in itertools.chain(head, lines):
        yield Record(f"{name}:{number}", _decode_object(line))


def _numbered_lines(stream: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Lines that aren't blank, with their numbers from 1."""
    was_wide = False
    for number, line in enumerate(stream, 1):
        if was_wide:  # its line break has a second byte
            line = line.removeprefix(b"\0")
        was_wide = _is_wide(line)
        if line and not line.isspace():
            yield number, line


def _is_wide(line: bytes) -> bool:
    """Whether a line is UTF-16, in a file whose other lines are UTF-8."""
    return line[:2] in UTF_16_MARKS or b"\0" in line[:2]


def _starts_document(line: bytes, *, alone: bool) -> bool:
    """Whether a file that begins with this line holds one document instead of a row per line."""
    text = line.strip()
    if text.startswith(b"["):  # a row is an object, so this is an array of rows
        return True
    if text.startswith(b"{") and text.endswith((b"{", b"[", b",")):
        return True
    if not alone:
        return False
    try:
        return _row_list(msgspec.json.decode(text)) is not None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _row_list(value: Any) -> str | None:
    """The key of the list of all rows, if the file is an object with such a list."""
    if not isinstance(value, dict) or ROW_COLUMNS & value.keys():
        return None
    lists = [k for k, v in value.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    return lists[0] if len(lists) == 1 else None


def _decode_object(line: bytes) -> dict[str, Any] | BadRow:
    try:
        value = msgspec.json.decode(line)
        # Written anew, a row in which a key is given twice has fewer quotation marks. To look at
        # each key while rows are decoded would take several times as long.
        is_whole = line.count(b'"') == msgspec.json.encode(value).count(b'"')
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _encoding_problem(line) or BadRow(f"invalid JSON: {_decode_reason(line, error)}")
    if not is_whole and (key := _duplicate_key(line)) is not None:
        return BadRow(f"the key '{key}' is given twice", "remove one of the two")
    return _object_or_bad_row(value)


def _duplicate_key(line: bytes) -> str | None:
    """The key, if there is one; none in a line that `json` takes otherwise than msgspec."""
    try:
        _DECODER.decode(line.decode())
    except DuplicateKey as error:
        return error.detail
    except (ValueError, RecursionError):
        return None
    return None


def _decode_reason(line: bytes, error: Exception) -> str:
    """The reason why msgspec can't read a line, in the clearer words of `json`."""
    try:
        text = line.decode("utf-8").rstrip("\r\n")
        _DECODER.decode(text)
    except json.JSONDecodeError as clearer:
        return f"{clearer.msg} (column {clearer.pos + 1})"
    except ValueError as clearer:
        return str(clearer)
    except RecursionError:
        return "nested too deeply"
    return "half of a surrogate pair" if _HALF_PAIR.search(text) else str(error)


def _object_or_bad_row(value: Any) -> dict[str, Any] | BadRow:
    if isinstance(value, dict):
        return value
    return BadRow(f"the row is {kind_of(value)}, not an object", "write it as {…}")


def _encoding_problem(line: bytes) -> BadRow | None:
    """The reason why a line isn't UTF-8, or which bytes precede its text."""
    if _is_wide(line):
        return BadRow("the line is UTF-16, not UTF-8", "save all of the file as UTF-8")
    if line.startswith(UTF_8_MARK):
        return BadRow(
            "the row starts with a byte order mark", "remove it: sed -i 's/^\\xEF\\xBB\\xBF//'"
        )
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        return BadRow(f"byte {error.start + 1} (0x{byte:02x}) isn't UTF-8", _SAVE_AS_UTF8)
    return None


_SAVE_AS_UTF8 = "save the file as UTF-8"


class Diagnosis(NamedTuple):
    """What is known about the encoding of a file.

    facts: empty for UTF-8. setting: what to write as `encoding`; empty if that isn't known.
    """

    facts: str
    setting: str
    fix: str


def diagnose_encoding(path: Path) -> Diagnosis:
    """Looks at all lines of a file."""
    non_ascii, bad, bad_line, is_cp1252 = 0, list[int](), b"", True
    with open_bytes(path) as stream:
        actual = detect_encoding(stream.peek(CHUNK_BYTES))
        if actual and actual != UTF_8:
            facts = f"the file is {actual.upper()}"
            return Diagnosis(facts, actual, f"{facts}: set `encoding: {actual}` in data.file")
        for number, line in enumerate(stream, 1):
            if is_decodable(line, UTF_8):
                non_ascii += not line.isascii()
            else:
                bad.append(number)
                bad_line = bad_line or line
                is_cp1252 = is_cp1252 and is_decodable(line, "cp1252")
    if not bad:
        return Diagnosis("", UTF_8, _SAVE_AS_UTF8)
    listed_lines = ", ".join(map(str, bad[:MAX_LISTED_LINES])) + (
        ", …" if len(bad) > MAX_LISTED_LINES else ""
    )
    noun, verb = ("lines", "aren't") if len(bad) > 1 else ("line", "isn't")
    facts = f"{counted(len(bad), 'line')} {verb} UTF-8 ({noun} {listed_lines})"
    if not is_cp1252:
        fix = f"{facts}, nor cp1252: set `encoding` to the one that the file was saved in"
        return Diagnosis(f"{facts}, nor cp1252", "", fix)
    setting, end = "cp1252", "or convert the file: iconv -f cp1252 -t utf-8"
    if non_ascii:
        setting, end = "[utf-8, cp1252]", "which reads each line in the first that fits (to "
        end += "convert the whole file would corrupt those lines)"
        facts += f", but {non_ascii:,} with other letters than ASCII are"
    sample = _SAMPLE.search(bad_line.decode("cp1252"))
    facts += f"; as cp1252, line {bad[0]} reads '…{sample and sample[0]}…'"
    fix = f"{facts}; if that is right, set `encoding: {setting}` in data.file, {end}"
    return Diagnosis(facts, setting, fix)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")


_DECODER = json.JSONDecoder(
    parse_constant=_refuse_constant, object_pairs_hook=object_with_unique_keys
)


def _read_document(name: str, content: bytes) -> Iterator[Record]:
    """The rows of one JSON document, decoded one after the other."""
    text = _decode_utf8(name, content)
    document = _Document(name, text)
    array, line, position = document.rows_at(), 1, 0
    for number, (start, value) in enumerate(document.elements(array), 1):
        line += text.count("\n", position, start)
        position = start
        yield Record(f"{name}:{line} (row {number})", _object_or_bad_row(value))


def _decode_utf8(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"a byte (0x{content[error.start]:02x}) isn't UTF-8"
        raise DataError(problem, where=f"{name}:{line}", fix=_SAVE_AS_UTF8) from error


class _Document:
    """A JSON text that is decoded piece by piece, to know the places of its parts."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def rows_at(self) -> int:
        """The position at which the array of rows begins."""
        start = self._skip(0)
        if self.text[start] == "[":
            return start
        arrays: dict[str, int] = {}
        members: dict[str, Any] = {}
        for key, place, value in self._members(start):
            arrays[key] = place
            members[key] = value[:1] if isinstance(value, list) else None
        key_of_rows = _row_list(members)
        if key_of_rows is None:
            raise DataError(
                "the JSON object must contain exactly one list of rows; its keys: "
                f"{', '.join(arrays)}",
                where=self.name,
                fix="write a list of objects, or JSON lines (one object a line)",
            )
        return arrays[key_of_rows]

    def elements(self, start: int) -> Iterator[tuple[int, Any]]:
        """(place, value) of each element of the array at `start`."""
        at = self._skip(start + 1)
        while self._char(at) != "]":
            value, end = self._value(at)
            yield at, value
            at = self._next(end, "]")
        if self.text[self._skip(0)] == "[":
            self._expect_end(at + 1)

    def _members(self, start: int) -> Iterator[tuple[str, int, Any]]:
        at = self._skip(start + 1)
        while self._char(at) != "}":
            key, end = self._value(at)
            colon = self._skip(end)
            if not isinstance(key, str) or self._char(colon) != ":":
                self._fail("a key and ':' are expected here", at)
            place = self._skip(colon + 1)
            value, end = self._value(place)
            yield key, place, value
            at = self._next(end, "}")
        self._expect_end(at + 1)

    def _next(self, end: int, close: str) -> int:
        """The start of what follows a value: the next one, or the closing bracket."""
        at = self._skip(end)
        if self._char(at) == close:
            return at
        if self._char(at) != ",":
            self._fail(f"',' or '{close}' is expected here", at)
        at = self._skip(at + 1)
        if self._char(at) == close:
            self._fail(f"',' isn't allowed before '{close}'", at)
        return at

    def _value(self, at: int) -> tuple[Any, int]:
        try:
            return _DECODER.raw_decode(self.text, at)
        except json.JSONDecodeError as error:
            self._fail(error.msg, error.pos)
        except DuplicateKey as error:
            self._fail(f"the key '{error.detail}' is given twice", at)
        except (ValueError, RecursionError) as error:
            self._fail(str(error), at)

    def _char(self, at: int) -> str:
        if at >= len(self.text):
            self._fail("the file ends unexpectedly", at)
        return self.text[at]

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def _expect_end(self, at: int) -> None:
        if self._skip(at) != len(self.text):
            self._fail("there is text after the end of the document", self._skip(at))

    def _fail(self, problem: str, position: int) -> NoReturn:
        line = self.text.count("\n", 0, position) + 1
        column = position - (self.text.rfind("\n", 0, position) + 1) + 1
        raise DataError(
            f"invalid JSON: {problem} (column {column})",
            where=f"{self.name}:{line}",
            fix="repair the file, or write JSON lines, where the other rows stay readable",
        )


# CSV and TSV


def _read_delimited(name: str, stream: io.BufferedReader) -> Iterator[Record]:
    """Rows of a CSV or TSV file; values are text, the first record names the columns."""
    csv.field_size_limit(sys.maxsize)  # documents are longer than the default of 128 KiB
    # What isn't UTF-8 comes through as lone surrogates, so that only its row is bad.
    lines = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    header_line, skipped = "", 0
    for line in lines:
        if line.strip():
            header_line = line
            break
        skipped += 1
    if not header_line:
        return
    delimiter = (
        "\t"
        if "\t" in header_line
        else ";"
        if ";" in header_line and "," not in header_line
        else ","
    )
    reader = csv.reader(itertools.chain([header_line], lines), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        where = f"{name}:{skipped + reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if header is None:
                raise DataError(f"the header can't be read: {error}", where=where) from error
            yield Record(where, BadRow(f"invalid CSV: {error}", _QUOTE_FIX))
            continue
        if len(cells) <= 1 and not "".join(cells).strip():
            continue  # a blank line
        if header is None:
            header = _check_header(cells, where)
        else:
            yield Record(where, _row_of_cells(header, cells))


_QUOTE_FIX = 'put fields with commas, quotes or line breaks in "…", and double the quotes inside'


def _check_header(cells: list[str], where: str) -> list[str]:
    names = [c.strip() for c in cells]
    twice = sorted(name for name, count in Counter(names).items() if name and count > 1)
    if twice:
        raise DataError(
            f"the header has the column '{twice[0]}' twice", where=where, fix="rename one"
        )
    for name in names:
        if (problem := _bad_bytes(name)) is not None:
            raise DataError(f"the header isn't UTF-8: {problem.what}", where=where, fix=problem.fix)
    return names


def _row_of_cells(header: list[str], cells: list[str]) -> dict[str, Any] | BadRow:
    if len(cells) != len(header):
        count = f"{len(cells)} field{'s' if len(cells) != 1 else ''}"
        return BadRow(f"the row has {count}, but the header has {len(header)}", _QUOTE_FIX)
    for cell in cells:
        if not cell.isascii() and (problem := _bad_bytes(cell)) is not None:
            return problem
    # An empty name is the index column that pandas writes.
    return {name: cell for name, cell in zip(header, cells, strict=True) if name}


def _bad_bytes(text: str) -> BadRow | None:
    for character in text:
        if "\udc80" <= character <= "\udcff":
            byte = ord(character) - 0xDC00
            return BadRow(f"a byte (0x{byte:02x}) isn't UTF-8", _SAVE_AS_UTF8)
    return None


# Parquet


def _read_parquet(name: str, stream: io.BufferedReader, copy: Path | None) -> Iterator[Record]:
    """Rows of a Parquet file. copy: where to put the content of a compressed file meanwhile."""
    pyarrow = load_extra("pyarrow", "pyarrow")
    parquet = load_extra("pyarrow.parquet", "pyarrow")
    source = stream
    if copy is not None:  # Parquet is read from its end
        with copy.open("wb") as out:
            shutil.copyfileobj(stream, out, CHUNK_BYTES)
        source = copy.open("rb")
    number = 0
    try:
        for batch in parquet.ParquetFile(source).iter_batches(batch_size=PARQUET_BATCH):
            for columns in _to_microseconds(pyarrow, batch).to_pylist():
                number += 1
                cells = {key: json_value(drop_nulls(value)) for key, value in columns.items()}
                yield Record(f"{name} (row {number})", cells)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"the Parquet file can't be read: {error}", where=name, fix="write or download it again"
        ) from error
    finally:
        if copy is not None:
            source.close()
            copy.unlink()


def _to_microseconds(pyarrow: Any, batch: Any) -> Any:
    """The batch without columns in nanoseconds, for which pyarrow gives types of pandas, if any.

    `ArrowInvalid` if a value would lose digits.
    """
    times = (pyarrow.types.is_timestamp, pyarrow.types.is_time64, pyarrow.types.is_duration)
    fields = []
    for field in batch.schema:
        coarser = field.type
        if any(is_time(coarser) for is_time in times) and coarser.unit == "ns":
            constructors = {"timestamp": pyarrow.timestamp, "time64": pyarrow.time64}
            name = str(coarser).partition("[")[0]
            zone = {"tz": coarser.tz} if name == "timestamp" else {}
            coarser = constructors.get(name, pyarrow.duration)("us", **zone)
        fields.append(field.with_type(coarser))
    return batch.cast(pyarrow.schema(fields))


def drop_nulls(value: Any) -> Any:
    """A nested value without the null fields that Parquet gives to objects that lack a key."""
    if isinstance(value, dict):
        return {k: drop_nulls(v) for k, v in value.items() if v is not None}
    return [drop_nulls(v) for v in value] if isinstance(value, list) else value
