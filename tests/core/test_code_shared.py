"""Parsed files are kept for all projects of a user, and never read for other code."""

import shutil
from pathlib import Path

import pytest
from msgspec.msgpack import encode

from finery.builder.code import shared
from finery.builder.code.parse import parse_file

SOURCE = "from finery_data import rows\n\ndef f():\n    return rows\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "finery" / "code"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "steps.py"
    path.write_text(SOURCE)
    return path


def unparsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a file that is parsed is an error."""
    monkeypatch.setattr("finery.builder.code.parse.parse_file", lambda path: 1 / 0)


def test_a_copy_of_a_file_is_not_parsed_again(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = encode(parse_file(file))
    assert shared.parsed(file) == fresh
    copy = Path(shutil.copy(file, file.parent / "copy.py"))
    unparsed(monkeypatch)
    assert shared.parsed(copy) == fresh
    assert len(list(folder.iterdir())) == 1


def test_a_changed_file_is_parsed(file: Path, folder: Path) -> None:
    before = shared.parsed(file)
    file.write_text(SOURCE.replace("return rows", "return row"))  # of another size or not
    assert shared.parsed(file) != before


@pytest.mark.parametrize("content", [b"", b"x" * 40, b"\0" * 32 + b"\x92"])
def test_a_damaged_entry_is_made_anew(content: bytes, file: Path, folder: Path) -> None:
    before = shared.parsed(file)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(content)
    assert shared.parsed(file) == before
    assert entry.read_bytes() == whole


def test_no_place_for_it_is_no_error(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocked").write_text("")
    for cache, home in (("/proc/none", "/proc"), (str(tmp_path / "blocked"), "/"), ("", "/")):
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
        monkeypatch.setenv("HOME", home)
        assert shared.parsed(file) == encode(parse_file(file))
