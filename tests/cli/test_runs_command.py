"""`finery runs` and `finery show --run`: the builds of a recipe, on one real project."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import LIGHT_STEPS, Project, until
from judged import commit

RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  rows: {use: steps.source, path: rows.txt}
  more: {use: steps.copy, rows: rows}
evaluate:
  test: {use: steps.score, rows: more, score: 0.5}
"""
SLOW = """\
finery: 1
name: slow
plugins: [./steps.py]
data:
  quick: {use: steps.script, code: "rows = []"}
  slow: {use: steps.script, rows: quick, code: "import time; time.sleep(600)"}
"""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in git, built three times: as committed, with a change, and without success."""
    t = Project(tmp_path_factory.mktemp("history"))
    t.write({"recipe.yaml": RECIPE, "steps.py": LIGHT_STEPS.read_text("utf-8"), "rows.txt": "a\nb"})
    t.write({".gitignore": ".finery\nbuild\n", "slow.yaml": SLOW})
    commit(t.folder)
    assert t.ran() == ["more", "rows", "test"]
    t.edit("recipe.yaml", "score: 0.5", "score: 0.75")
    time.sleep(0.2)  # a recipe that has just changed leaves no stamp
    assert t.ran() == ["test"]
    assert t.run("build", "--set", "evaluate.test.least=0.9").code == 1
    return t


def runs(project: Project, *args: str) -> list[dict[str, object]]:
    done = project.run("runs", "--json", *args)
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


def test_each_build_is_listed_with_its_revision_its_end_and_its_scores(history: Project) -> None:
    failed, changed, first = runs(history)
    assert [r["ending"] for r in (failed, changed, first)] == ["failed", "ok", "ok"]
    assert [r["revision"]["is_dirty"] for r in (changed, first)] == [True, False]  # type: ignore[index]
    assert failed["overrides"] == ["--set evaluate.test.least=0.9"]
    states = [{s["step"]: s["state"] for s in r["steps"]} for r in (failed, changed, first)]  # type: ignore[attr-defined]
    assert states == [
        {"rows": "cached", "more": "cached", "test": "failed"},
        {"rows": "cached", "more": "cached", "test": "ran"},
        {"rows": "ran", "more": "ran", "test": "ran"},
    ]
    assert [r["metrics"]["test"]["values"] for r in (changed, first)] == [{"m": 0.75}, {"m": 0.5}]  # type: ignore[index]


def test_the_list_names_what_ran_and_why_a_build_failed(history: Project) -> None:
    out = history.run("runs", "-n", "2").out
    assert "ran nothing (2 cached)" in out
    assert "failed test: accuracy is 0.75, required 0.9" in out
    assert "test accuracy: m 75.0 %" in out
    assert out.count("accuracy: m") == 2  # of two builds


def test_the_output_of_a_past_run_is_shown(history: Project) -> None:
    first = str(runs(history)[-1]["run"])
    assert "50.0 %" in history.run("show", "test", "--run", first).out
    assert "75.0 %" in history.run("show", "test", "--run", "previous").out
    unknown = history.run("show", "test", "--run", "never")
    assert unknown.code == 2
    assert "there is no run 'never' of this recipe" in unknown.err


def test_a_killed_run_is_known_as_one_and_keeps_what_it_finished(history: Project) -> None:
    process = history.start("build", "slow.yaml")
    folder = history.folder

    def started() -> bool:
        return any("ran quick" in line for line in history.run("runs", "slow.yaml").out.split("\n"))

    until(started)
    assert runs(history, "slow.yaml")[0]["ending"] == "running"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (killed,) = runs(history, "slow.yaml")
    assert killed["ending"] == "killed"
    assert [s["state"] for s in killed["steps"]] == ["ran", "waiting"]  # type: ignore[attr-defined]
    events = folder / ".finery/runs" / str(killed["run"]) / "events.jsonl"
    with events.open("ab") as torn:
        torn.write(b'{"event":"step_finished","step":"slow"')  # as if killed while it wrote
    assert runs(history, "slow.yaml") == [killed]


FUTURE = """\
import datetime

class Future(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(days=3650)

datetime.datetime = Future
"""


def test_a_build_after_one_with_a_clock_in_the_future_is_the_last(tmp_path: Path) -> None:
    t = Project(tmp_path)
    t.write({"recipe.yaml": RECIPE, "steps.py": LIGHT_STEPS.read_text("utf-8"), "rows.txt": "a\nb"})
    t.write({"later/sitecustomize.py": FUTURE})
    scores = ["0.25", "0.5", "0.75"]
    for score in scores:
        t.env = {"PYTHONPATH": str(tmp_path / "later")} if score == "0.5" else {}
        with t.start("build", "--set", f"evaluate.test.score={score}") as process:
            assert process.wait(120) == 0
    t.env = {}
    runs = [json.loads(line) for line in t.run("runs", "--json").out.splitlines()]
    assert [run["overrides"] for run in runs] == [
        [f"--set evaluate.test.score={score}"] for score in reversed(scores)
    ]
    assert runs[1]["run"] > runs[0]["run"] > runs[2]["run"]  # by the clocks
    assert "75.0 %" in t.run("show", "test", "--run", "last").out
    t.run("cache", "gc", "--keep", "1")
    assert [json.loads(line)["run"] for line in t.run("runs", "--json").out.splitlines()] == [
        runs[0]["run"]
    ]
