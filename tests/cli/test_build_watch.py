"""`finery build --watch`: builds again after a change, also of plugins, and ends with Ctrl-C."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import TWO_STEPS, MakeProject, Project, until

from finery.builder.uptodate import Sources
from finery.cli.commands import build
from finery.util.files import FINE_NS

Wait = Callable[[str], str]


@pytest.fixture
def t(project: MakeProject) -> Project:
    """A project of two steps."""
    return project({"recipe.yaml": TWO_STEPS, "rows.txt": "one\n"})


@pytest.fixture
def wait(t: Project) -> Iterator[Wait]:
    """Start `build --watch`; waits for a text in the output since the last wait, returns it."""
    log, seen = t.folder.with_name("log"), [0]
    time.sleep(0.1)  # a file that was written just before the build may have changed during it
    with log.open("w") as out:
        process = t.start("build", "--watch", stdout=out, stderr=out)

    def printed() -> str:
        return log.read_text("utf-8")[seen[-1] :]

    def wait_for(text: str) -> str:
        until(lambda: (text in printed() and "Ctrl-C" in printed()) or process.poll() is not None)
        new = printed()
        assert text in new, log.read_text("utf-8")
        seen.append(len(log.read_text("utf-8")))
        return new

    yield wait_for
    os.killpg(process.pid, signal.SIGINT)
    code, last = process.wait(60), log.read_text("utf-8").split("Building again.")[-1]
    # A file that was written just before a build makes another one, which may run by now.
    assert code == (0 if "Ctrl-C" in last else -signal.SIGINT), log.read_text("utf-8")
    assert "Traceback" not in log.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.quick
def test_it_builds_again_after_each_change_and_survives_mistakes(t: Project, wait: Wait) -> None:
    wait("2 steps: 2 built, 0 cached")
    t.edit("recipe.yaml", "tag: 1", "tag: 2")
    printed = wait("2 steps: 1 built, 1 cached")
    assert re.search(r"^\d\d:\d\d:\d\d A file changed. Building again.$", printed, re.M)
    t.write({"rows.txt": "uno\n"})
    wait("2 steps: 2 built, 0 cached")
    t.edit("recipe.yaml", "tag: 2", "tga: 2")
    wait("did you mean 'tag'?")
    t.edit("recipe.yaml", "tga: 2", "tag: 2")
    wait("2 steps, nothing to do")
    t.edit("steps.py", '"tag": self.tag}', '"tag": -self.tag}')
    wait("2 steps: 2 built, 0 cached")  # the file runs texts, so it counts as a whole
    assert t.rows("b")[0]["tag"] == -2
    Path(t.folder, "rows.txt").unlink()
    wait("there is no file rows.txt")
    t.write({"rows.txt": "dos\n"})
    wait("2 steps: 2 built, 0 cached")


def test_a_file_that_appears_while_finery_looks_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe names a missing file, which is written as soon as finery says that it watches."""

    def writes(*_: object, **__: object) -> None:
        (tmp_path / "rows.txt").write_text("one")

    def waits(_: float) -> None:
        raise AssertionError("the file isn't noticed")

    monkeypatch.setattr("finery.cli.commands.build.click.secho", writes)
    monkeypatch.setattr("finery.cli.commands.build.time.sleep", waits)
    assert build._wait_for_change(tmp_path / "recipe.yaml", None, time.time_ns())


def test_what_changes_during_a_build_is_noticed(tmp_path: Path) -> None:
    """Changes before the first look at the states of all files, which is after the build."""
    one, two, lock = tmp_path / "1.jsonl", tmp_path / "2.jsonl", tmp_path / "finery.lock"
    one.write_text("{}")
    time.sleep(2 * FINE_NS / 1e9)  # so that the file is old
    began = time.time_ns()
    sources = Sources({str(one)}, {str(lock)}, {f"{tmp_path}/*.jsonl"})
    assert not sources.changed_since(began)
    lock.write_text("[]")
    assert not sources.changed_since(began, {str(lock)})
    assert sources.changed_since(began)
    lock.unlink()
    two.write_text("{}")
    assert sources.changed_since(began)
    two.unlink()
    assert not sources.changed_since(began)
    one.unlink()
    assert sources.changed_since(began)
