"""Events: their names and fields are stable and documented, and `--json` prints nothing else."""

import json
import time
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from conftest import LIGHT_STEPS, Project, Ran

from finery.util.events import EVENTS, new_run_id

RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
data:
  talks:
    use: steps.script
    code: |
      job.log("a note"); job.progress(1, 2, "half"); job.metric("loss", 0.5, 1); print("printed")
      import subprocess; subprocess.run(["echo", "from a child"])
      Path("aside.txt").read_text(); Path("aside.txt").write_text("changed")
  after: {use: steps.copy, rows: talks}
  fails: {use: steps.script, code: "raise ValueError('no')"}
  blocked: {use: steps.copy, rows: fails, tag: 1}
evaluate:
  gate: {use: steps.score, rows: talks, score: 0.1, least: 0.2}
"""


@pytest.fixture(scope="module")
def t(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose build has every kind of event."""
    made = Project(tmp_path_factory.mktemp("events"))
    (made.folder / ".git").mkdir()
    shared = f'remote = "file://{tmp_path_factory.mktemp("shared")}"\npush = true\n'
    made.write({"recipe.yaml": RECIPE, "steps.py": LIGHT_STEPS.read_text(), "aside.txt": ""})
    made.write({"finery.toml": shared})
    return made


@pytest.fixture(scope="module")
def ran(t: Project) -> list[Ran]:
    """Its first build, and the next."""
    return [t.run("build", "--json", "--keep-going") for _ in range(2)]


@pytest.fixture(scope="module")
def told(ran: list[Ran]) -> list[dict[str, Any]]:
    """The events of the first build."""
    return [json.loads(line) for line in ran[0].out.splitlines()]


def test_every_event_and_each_of_its_fields_is_explained() -> None:
    for kind in EVENTS.values():
        assert (kind.__doc__ or "").endswith(".")
        hints = get_type_hints(kind, include_extras=True)
        assert all(hint.__metadata__[0] for hint in hints.values())


def test_json_is_these_events_and_nothing_else(ran: list[Ran]) -> None:
    lines = [json.loads(line) for r in ran for line in r.out.splitlines()]
    assert {e["event"] for e in lines} == {*EVENTS} - {"verdict"}  # of a recipe about models
    for event in lines:
        kind = EVENTS[event["event"]]
        assert [*event] == [*get_type_hints(kind)]
        msgspec.convert(event, kind)  # its values are of the types that it declares
    assert [(r.code, r.err) for r in ran] == [(1, ""), (1, "")]


def test_events_tell_a_build_in_order(told: list[dict[str, Any]]) -> None:
    names = [e["event"] for e in told]
    assert (names[0], names[-1]) == ("build_started", "build_finished")
    assert [s["step"] for s in told[0]["steps"]] == ["talks", "after", "fails", "blocked", "gate"]
    of_talks = [e["event"] for e in told if e.get("step") == "talks"]
    assert of_talks == [
        "step_started", "step_log", "step_progress", "step_metric", "step_note", "step_finished",
    ]  # fmt: skip
    end = told[-1]
    assert (end["ok"], end["ran"], end["failed"], end["blocked"]) == (False, 3, 2, 1)
    assert end["exit_code"] == 1


def test_a_runs_events_are_kept_beside_its_logs(t: Project, told: list[dict[str, Any]]) -> None:
    folder = t.folder / ".finery/runs" / told[0]["run"]
    kept = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert kept == told
    assert (folder / "talks.log").read_text() == "printed\nfrom a child\n"
    failed = next(e for e in told if e["event"] == "step_failed" and e["step"] == "fails")
    assert Path(failed["log"]) == folder / "fails.log"


def test_ids_of_runs_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for pid in (99_998, 100_012, 7):
        monkeypatch.setattr("os.getpid", lambda pid=pid: pid)
        ids.append(new_run_id())
        time.sleep(0.002)
    assert ids == sorted(ids)
