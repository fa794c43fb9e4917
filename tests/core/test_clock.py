"""When a file's stat can be trusted, and how files are copied."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery.util import files
from finery.util.files import COARSE_NS, FINE_NS, copy_file, is_settled

NOW = 1_700_000_000_123_456_789


@given(st.integers(0, FINE_NS))
def test_what_changed_just_now_may_change_again(age: int) -> None:
    assert not is_settled(NOW - age, 0, NOW)
    assert not is_settled(0, NOW - age, NOW)


def test_a_fraction_of_a_second_tells_a_fine_clock() -> None:
    assert is_settled(NOW - 2 * FINE_NS, 0, NOW)
    whole = NOW // 1_000_000_000 * 1_000_000_000
    assert not is_settled(whole, 0, whole + 2 * FINE_NS)
    assert is_settled(whole, 0, whole + COARSE_NS + 1)


@pytest.mark.parametrize("fails", ["with an error", "as if the file ended"])
@pytest.mark.parametrize("blocks", [None, 0, 2])
def test_a_copy_has_the_same_bytes_though_blocks_cannot_be_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int | None, fails: str
) -> None:
    """blocks: after which the system refuses; None: it doesn't. fails: how."""
    content = bytes(range(256)) * 10
    source = tmp_path / "source"
    source.write_bytes(content)
    source.chmod(0o444)
    before = source.stat()
    copies, done = os.copy_file_range, list[int]()

    def refuse(source: int, target: int, count: int) -> int:
        if blocks is not None and len(done) >= blocks:
            if fails == "as if the file ended":
                return 0
            raise OSError("two file systems")
        return copies(source, target, count)

    monkeypatch.setattr(files, "COPY_BLOCK_BYTES", 1000)
    monkeypatch.setattr(os, "copy_file_range", refuse)
    copy_file(source, tmp_path / "target", done.append)
    assert (tmp_path / "target").read_bytes() == content
    assert sum(done) == len(content)
    with pytest.raises(FileExistsError):
        copy_file(source, tmp_path / "target")
    assert source.stat().st_ctime_ns == before.st_ctime_ns
