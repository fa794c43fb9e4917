"""`finery plan`: each step's state and reason, without running anything."""

import json
from typing import Any

import pytest
from conftest import MakeProject, Project

RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source, path: rows.txt}
  b: {use: steps.copy, rows: a, tag: 1}
  c: {use: steps.limit, rows: b}
"""


@pytest.fixture
def t(project: MakeProject) -> Project:
    """Three steps."""
    return project({"recipe.yaml": RECIPE, "rows.txt": "one\ntwo\n"})


def plan(t: Project, *args: str) -> dict[str, dict[str, Any]]:
    """The plan by step."""
    lines = [json.loads(line) for line in t.run("plan", "--json", *args).out.splitlines()]
    assert all(list(line) == ["step", "use", "state", "reason", "key"] for line in lines)
    return {line["step"]: line for line in lines}


def states(t: Project, *args: str) -> list[str]:
    """Their states, in order."""
    return [line["state"] for line in plan(t, *args).values()]


def test_a_plan_runs_nothing(t: Project) -> None:
    assert states(t) == ["run", "pending", "pending"]
    assert not (t.folder / "build").exists()
    code, out, err = t.run("plan")
    assert (code, err) == (0, "")
    assert "3 steps: 1 run, 2 pending" in out
    assert "waits for a" in out


def test_a_plan_is_what_the_build_then_does(t: Project) -> None:
    t.ran()
    assert states(t) == ["cached", "cached", "cached"]
    assert states(t, "--set", "data.b.tag=2") == ["cached", "run", "pending"]
    assert plan(t, "--set", "data.b.tag=2")["b"]["reason"] == "setting tag: 1 → 2"
    assert t.ran("--set", "data.b.tag=2") == ["b", "c"]


@pytest.mark.parametrize(("file", "old", "new", "reason"), [
    ("rows.txt", "one", "uno", "file path rows.txt changed"),
    ("recipe.yaml", "path: rows.txt", "path: [rows.txt, rows.txt]", ""),
    ("steps.py", 'count("source")', 'count("a source")', "code steps.py changed"),
    ("recipe.yaml", "use: steps.source, path: rows.txt", "use: steps.script", "step type: steps.s"),
])  # fmt: skip
def test_a_plan_says_why(t: Project, file: str, old: str, new: str, reason: str) -> None:
    t.ran()
    t.edit(file, old, new)
    found = plan(t)["a"]
    assert found["reason"].startswith(reason)
    assert found["state"] == ("run" if reason else "cached")


def test_a_plan_of_one_step(t: Project) -> None:
    assert list(plan(t, "--step", "b")) == ["a", "b"]


def test_keys_in_a_plan_are_those_of_the_build(t: Project) -> None:
    t.ran()
    keys = {line["key"] for line in plan(t).values()}
    assert len(keys) == 3
    assert all(len(k) == 64 for k in keys)
    assert {line["key"] for line in plan(t).values()} == keys
