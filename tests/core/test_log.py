"""A step's log, with secrets that arrive in pieces."""

import os
import re
import threading
from pathlib import Path

import pytest

from finery.execute.log import LONGEST_LINE, copy_redacted
from finery.util.text import secret_pattern

SECRET = b"sk-a-secret"


@pytest.mark.parametrize("line", [b"x" * 100 + b"\n", b"x" * (LONGEST_LINE // 30)])
def test_secrets_cut_anywhere_are_removed(tmp_path: Path, line: bytes) -> None:
    text = (line + SECRET) * 100
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb", buffering=0) as pipe:
            for start in range(0, len(text), step := max(len(text) // 999, 7)):
                pipe.write(text[start : start + step])

    thread = threading.Thread(target=write)
    thread.start()
    with (tmp_path / "log").open("wb") as log:
        pattern = secret_pattern(SECRET.decode())
        copy_redacted(re.compile(pattern.encode()), reading, log.fileno(), reach=len(pattern))
    thread.join()
    os.close(reading)
    assert (tmp_path / "log").read_bytes() == text.replace(SECRET, b"***")
