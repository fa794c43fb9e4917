"""Every kind of file that data.file reads, good and damaged."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from finery import DataError
from finery.rows.badrow import BadRow
from finery.rows.tables.records import Record, diagnose_encoding, read_table, table_suffix

ROWS = [
    {"instruction": "Say hi", "input": "", "output": "hi\nthere"},
    {"instruction": "Größe?", "input": 'a, "b"; c\td', "output": "日本"},
]


def read(folder: Path, name: str, content: bytes | str) -> list[Record]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_table(path, folder))


def good(records: list[Record]) -> list[Any]:
    return [r.columns for r in records]


def problem(record: Record) -> str:
    assert isinstance(record.columns, BadRow)
    return f"{Path(record.where).name}: {record.columns.what}"


def failure(folder: Path, name: str, content: bytes | str) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, name, content)
    assert caught.value.fix
    return str(caught.value)


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows).encode()


def as_json(rows: list[dict[str, Any]]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def delimited(delimiter: str) -> Callable[[list[dict[str, Any]]], bytes]:
    def write(rows: list[dict[str, Any]]) -> bytes:
        cells = [list(rows[0]), *(list(r.values()) for r in rows)]
        quoted = [[f'"{c}"'.replace('"b"', '""b""') for c in row] for row in cells]
        return "".join(delimiter.join(row) + "\r\n" for row in quoted).encode()

    return write


def as_parquet(rows: list[dict[str, Any]] | dict[str, Any]) -> bytes:
    """Rows, or columns of Arrow, as a Parquet file."""
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.table(rows) if isinstance(rows, dict) else pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, sink)
    return bytes(sink.getvalue())


def as_zstd(content: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
    return bytes(zstandard.ZstdCompressor().compress(content))


KINDS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    ".jsonl": as_jsonl,
    ".ndjson": as_jsonl,
    ".json": as_json,
    ".csv": delimited(","),
    ".tsv": delimited("\t"),
    ".parquet": as_parquet,
}
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": as_zstd,
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_reads_every_kind_and_compression(tmp_path: Path, kind: str, compression: str) -> None:
    content = COMPRESSIONS[compression](KINDS[kind](ROWS))
    assert good(read(tmp_path, f"x{kind}{compression}", content)) == ROWS
    assert not (tmp_path / "table.parquet").exists()


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv"])
def test_skips_byte_order_mark(tmp_path: Path, kind: str) -> None:
    assert good(read(tmp_path, f"x{kind}", b"\xef\xbb\xbf" + KINDS[kind](ROWS))) == ROWS


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_refuses_utf16(tmp_path: Path, name: str) -> None:
    assert "UTF-16" in failure(tmp_path, name, '{"a": 1}'.encode("utf-16"))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_wide_encodings_are_told_apart(tmp_path: Path, name: str, encoding: str) -> None:
    text = failure(tmp_path, name, '{"a": "ü"}\n'.encode(encoding))
    assert f"the file is {encoding.upper()}, not UTF-8\n  fix: set `encoding: {encoding}`" in text


def test_utf_16_with_few_letters_of_ascii_is_not_called_cp1252(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(("提示,回答\n" + "不上中国,早上好\n" * 9).encode("utf-16-le"))
    assert (diagnose_encoding(path).setting, "UTF-16-LE" in diagnose_encoding(path).fix) == (
        "utf-16-le",
        True,
    )


def test_a_nul_in_a_row_of_utf_8_is_not_utf_16(tmp_path: Path) -> None:
    rows = good(read(tmp_path, "x.csv", "a,b\n\0\0,ü\n" + "c,d\n" * 9))
    assert rows[0] == {"a": "\0\0", "b": "ü"}
    assert diagnose_encoding(tmp_path / "x.csv").facts == ""


@pytest.mark.parametrize("compression", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet"])
def test_truncated_compression_is_an_error(tmp_path: Path, kind: str, compression: str) -> None:
    many = [{"a": f"{i} {i * 7919 % 1000}"} for i in range(500)]
    content = COMPRESSIONS[compression](KINDS.get(kind, as_jsonl)(many))
    text = failure(tmp_path, f"x{kind}{compression}", content[: len(content) // 2])
    assert f"x{kind}{compression}: error: the compressed file is damaged" in text


def test_several_zstd_frames_are_one_file(tmp_path: Path) -> None:
    content = as_zstd(as_jsonl(ROWS[:1])) + as_zstd(as_jsonl(ROWS[1:]))
    assert good(read(tmp_path, "x.jsonl.zst", content)) == ROWS


def test_unknown_suffix_names_the_known(tmp_path: Path) -> None:
    assert "did you mean '.jsonl'" in failure(tmp_path, "x.jsnl", "{}")
    assert ".parquet" in failure(tmp_path, "table", "{}")
    assert table_suffix(Path("A.CSV.GZ")) == ".csv"


# JSON lines


def test_json_lines_ignore_blank_lines_but_count_them(tmp_path: Path) -> None:
    records = read(tmp_path, "x.jsonl", '\n{"a": 1}\r\n  \n{"a": 2}')
    assert [Path(r.where).name for r in records] == ["x.jsonl:2", "x.jsonl:4"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"a": 1', "invalid JSON: Expecting ',' delimiter (column 8)"),
        (b'{"a": NaN}', "invalid JSON: NaN isn't JSON"),
        (b'{"a": "\\ud800"}', "invalid JSON: half of a surrogate pair"),
        (b"null", "the row is null, not an object"),
        (b'{"a": "caf\xe9"}', "byte 11 (0xe9) isn't UTF-8"),
        (b'{"a":' + b"[" * 100_000, "invalid JSON: nested too deeply"),
    ],
)
def test_bad_json_line_keeps_the_others(tmp_path: Path, line: bytes, what: str) -> None:
    records = read(tmp_path, "x.jsonl", b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    assert problem(records[1]) == f"x.jsonl:2: {what}"
    assert [records[0].columns, records[2].columns] == [{"a": 1}, {"a": 3}]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b'{"text": 1, "text": 2}', "text"),
        (b'{"t": [{"role": "a", "content": "b", "content": "say \\"c\\":"}]}', "content"),
        (b'{"a": "x\\u0022y", "a": 1}', "a"),
    ],
)
def test_a_key_given_twice_makes_a_row_bad(tmp_path: Path, line: bytes, key: str) -> None:
    records = read(tmp_path, "x.jsonl", b'{"a": 0}\n' + line + b"\n")
    assert problem(records[1]) == f"x.jsonl:2: the key '{key}' is given twice"
    message = failure(tmp_path, "x.json", b'[{"a": 0},\n' + line + b"]")
    assert f"x.json:2: error: invalid JSON: the key '{key}' is given twice" in message


@pytest.mark.parametrize("row", [{"a": '{"a": 1, "a": 2}'}, {"a": {"a": {"a": '": " :'}}}])
def test_a_key_in_several_objects_or_texts_is_fine(tmp_path: Path, row: Any) -> None:
    escaped = json.dumps(row).replace('\\"', "\\u0022")
    records = read(tmp_path, "x.jsonl", f"{json.dumps(row)}\n{escaped}\n")
    assert good(records) == [row, row]


# JSON documents


def test_json_array_knows_lines_and_numbers(tmp_path: Path) -> None:
    records = read(tmp_path, "x.json", '\n[\n {"a": 1},\n\n 5,\n {"a":\n 3}]\n')
    places = [Path(r.where).name for r in records]
    assert places == ["x.json:3 (row 1)", "x.json:5 (row 2)", "x.json:6 (row 3)"]
    assert problem(records[1]) == "x.json:5 (row 2): the row is a number, not an object"


@pytest.mark.parametrize("indent", [None, 2])
def test_object_with_one_list_of_rows(tmp_path: Path, indent: int | None) -> None:
    text = json.dumps({"version": 1, "tags": ["x"], "data": ROWS}, indent=indent)
    assert good(read(tmp_path, "x.json", text)) == ROWS


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('[\n{"a": 1}\n{"a": 2}]', "x.json:3", "',' or ']' is expected here (column 1)"),
        ('[\n{"a": 1},\n]', "x.json:3", "',' isn't allowed before ']'"),
        ('[\n{"a": 1}', "x.json:2", "the file ends unexpectedly"),
        ('[{"a": 1}]\n[', "x.json:2", "there is text after the end of the document"),
        ('{\n"data": [{}]\n', "x.json:3", "the file ends unexpectedly"),
    ],
)
def test_broken_document_names_the_line(tmp_path: Path, text: str, where: str, what: str) -> None:
    message = failure(tmp_path, "x.json", text)
    assert f"{where}: error: invalid JSON: {what}" in message


# CSV


def test_csv_lines_are_physical_lines(tmp_path: Path) -> None:
    records = read(tmp_path, "x.csv", 'a,b\n1,"two\nlines"\n\n3\n4,5\n')
    assert [Path(r.where).name for r in records] == ["x.csv:2", "x.csv:5", "x.csv:6"]
    assert problem(records[1]) == "x.csv:5: the row has 1 field, but the header has 2"


def test_csv_that_is_not_utf8_has_one_bad_row(tmp_path: Path) -> None:
    records = read(tmp_path, "x.csv", b"a,b\ncaf\xe9,1\nok,2\n")
    assert problem(records[0]) == "x.csv:2: a byte (0xe9) isn't UTF-8"
    assert records[1].columns == {"a": "ok", "b": "2"}


def test_csv_quotes_must_close(tmp_path: Path) -> None:
    records = read(tmp_path, "x.csv", 'a,b\n1,2\n3,"4\n5,6\n')
    assert problem(records[1]) == "x.csv:3: invalid CSV: unexpected end of data"


def test_csv_text_after_a_quote_is_a_bad_row(tmp_path: Path) -> None:
    records = read(tmp_path, "x.csv", 'a,b\n"x"y,2\n3,4\n')
    assert problem(records[0]).startswith("x.csv:2: invalid CSV")
    assert records[1].columns == {"a": "3", "b": "4"}


def test_csv_header_twice_the_same_is_an_error(tmp_path: Path) -> None:
    assert "x.csv:1: error: the header has the column 'a' twice" in failure(
        tmp_path, "x.csv", "a,b,a\n1,2,3\n"
    )


# Parquet


def test_parquet_numbers_rows_and_drops_nested_nulls(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "user", "name": "b"}]
    records = read(tmp_path, "x.parquet", as_parquet([{"messages": turns, "note": None}]))
    assert Path(records[0].where).name == "x.parquet (row 1)"
    assert records[0].columns == {"messages": turns, "note": None}


def test_parquet_values_are_what_json_has(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    at = datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)
    columns = {
        "at": pyarrow.array([at], pyarrow.timestamp("ns", "UTC")),  # as pandas writes them
        "took": pyarrow.array([timedelta(days=1, hours=2)], pyarrow.duration("ns")),
        "hour": pyarrow.array([at.time()], pyarrow.time64("ns")),
        "day": [at.date()],
        "price": [Decimal("12.50")],
    }
    (record,) = read(tmp_path, "x.parquet", as_parquet(columns))
    assert record.columns == {
        "at": "2026-01-02T03:04:05.000600+00:00", "took": "1 day, 2:00:00",
        "hour": "03:04:05.000600", "day": "2026-01-02", "price": "12.50",
    }  # fmt: skip
    finer = as_parquet({"at": pyarrow.array([1], pyarrow.timestamp("ns"))})
    assert "would lose data" in failure(tmp_path, "y.parquet", finer)


def test_broken_parquet_is_an_error(tmp_path: Path) -> None:
    content = as_parquet(ROWS)
    assert "the Parquet file can't be read" in failure(tmp_path, "x.parquet", content[:-20])
    assert "the Parquet file can't be read" in failure(tmp_path, "y.parquet", b"a,b\n")
