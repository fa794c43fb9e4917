"""`finery build --watch`: builds again after a change, also of plugins, and ends with Ctrl-C."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import MakeProject, Project, until

RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source, path: rows.txt}
  b: {use: steps.copy, rows: a, tag: 1}
"""
Wait = Callable[[str], None]


@pytest.fixture
def t(project: MakeProject) -> Project:
    """A project of two steps."""
    return project({"recipe.yaml": RECIPE, "rows.txt": "one\n"})


@pytest.fixture
def wait(t: Project) -> Iterator[Wait]:
    """Start `build --watch`; waits for a text among what it printed since the last wait."""
    log, seen = t.folder.with_name("log"), [0]
    with log.open("w") as out:
        process = t.start("build", "--watch", stdout=out, stderr=out)

    def printed() -> str:
        return log.read_text("utf-8")[seen[-1] :]

    def wait_for(text: str) -> None:
        until(lambda: (text in printed() and "Ctrl-C" in printed()) or process.poll() is not None)
        assert text in printed(), log.read_text("utf-8")
        seen.append(len(log.read_text("utf-8")))

    yield wait_for
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0, log.read_text("utf-8")
    assert "Traceback" not in log.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.quick
def test_it_builds_again_after_each_change_and_survives_mistakes(t: Project, wait: Wait) -> None:
    wait("2 steps: 2 built, 0 cached")
    t.edit("recipe.yaml", "tag: 1", "tag: 2")
    wait("2 steps: 1 built, 1 cached")
    t.write({"rows.txt": "uno\n"})
    wait("2 steps: 2 built, 0 cached")
    t.edit("recipe.yaml", "tag: 2", "tga: 2")
    wait("did you mean 'tag'?")
    t.edit("recipe.yaml", "tga: 2", "tag: 2")
    wait("2 steps, nothing to do")
    t.edit("steps.py", '"tag": self.tag}', '"tag": -self.tag}')
    wait("2 steps: 1 built, 1 cached")
    assert t.rows("b")[0]["tag"] == -2
    Path(t.folder, "rows.txt").unlink()
    wait("there is no file rows.txt")
    t.write({"rows.txt": "dos\n"})
    wait("2 steps: 2 built, 0 cached")
