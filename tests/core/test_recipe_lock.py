"""`recipe.lock`: pins of several builds, one after the other and at once."""

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from finery import UsageError
from finery.recipe.lock import Lock

OpenLock = Callable[[], Lock]


@pytest.fixture
def opened(tmp_path: Path) -> OpenLock:
    """Opens the lock file of a recipe as a new build does. Two names are pinned."""
    (tmp_path / "recipe.lock").write_text("a: one\nb: one\n")

    def open_lock() -> Lock:
        lock = Lock(tmp_path / "recipe.yaml")
        assert lock.get("a") == "one"  # it is read on first use
        return lock

    return open_lock


def pins(lock: Lock) -> dict[str, str]:
    """What is in the file."""
    loaded: dict[str, str] = yaml.safe_load(lock.path.read_text())
    return loaded


def test_builds_at_once_keep_the_pins_of_each_other(opened: OpenLock) -> None:
    one, other = opened(), opened()
    one.set("c", "two")
    other.set("d", "two")
    assert pins(one) == {"a": "one", "b": "one", "c": "two", "d": "two"}
    assert other.get("c") == "two"
    assert one.get("d") is None  # until it reads the file again
    one.set("e", "two")
    assert one.get("d") == "two"


def test_a_build_sees_no_pin_change_that_it_has_read(opened: OpenLock) -> None:
    one, other = opened(), opened()
    other.set("a", "two")
    one.set("c", "two")
    assert (one.get("a"), pins(one)["a"]) == ("one", "two")


def test_forgotten_names_leave_the_file_with_the_next_pin(opened: OpenLock) -> None:
    one, other = opened(), opened()
    one.forget(["a"])
    assert (one.get("a"), one.get("b")) == (None, "one")
    other.set("c", "two")
    one.set("d", "two")
    assert pins(one) == {"b": "one", "c": "two", "d": "two"}
    other.set("a", "two")
    one.set("e", "two")
    assert pins(one)["a"] == "two"


def test_pins_of_one_moment_are_all_in_the_file(opened: OpenLock) -> None:
    locks = [opened() for _ in range(4)]

    def pin(number: int) -> None:
        for name in range(10):
            locks[number].set(f"{number}-{name}", "two")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(pin, range(4)))
    assert len(pins(locks[0])) == 42


def test_a_file_that_cannot_be_written_is_an_error_with_a_fix(
    opened: OpenLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = opened()

    def full(self: Path, text: str, **_: str) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match=r"recipe\.lock, which pins c: No space left"):
        lock.set("c", "two")
    monkeypatch.undo()
    assert [file.name for file in lock.path.parent.iterdir()] == ["recipe.lock"]
    assert pins(lock) == {"a": "one", "b": "one"}
