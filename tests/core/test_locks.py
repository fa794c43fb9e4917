"""Locks of keys: between processes, and gone with the process that has them."""

import subprocess
import sys
from pathlib import Path

from finery.util.locks import KeyLocks

ONE, OTHER = b"\xff" * 32, b"\x01" * 32
HOLDER = (
    "import sys; from pathlib import Path; from finery.util.locks import KeyLocks\n"
    f"print(KeyLocks(Path(sys.argv[1])).acquire({ONE!r}), flush=True); sys.stdin.read()"
)


def test_a_lock_of_another_process_holds_until_that_process_is_killed(tmp_path: Path) -> None:
    locks = KeyLocks(tmp_path / "locks")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path / "locks"], stdin=-1, stdout=-1, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "True\n"
    assert not locks.acquire(ONE)
    assert locks.acquire(OTHER)
    holder.kill()
    holder.wait()
    assert locks.acquire(ONE)


def test_a_released_lock_is_free(tmp_path: Path) -> None:
    locks = KeyLocks(tmp_path / "locks")
    assert locks.acquire(ONE)
    locks.release(ONE)
    ran = subprocess.run(
        [sys.executable, "-c", HOLDER, tmp_path / "locks"], input="", capture_output=True, text=True
    )
    assert ran.stdout == "True\n"
