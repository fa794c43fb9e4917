"""`finery plan`: each step's state and reason, without running anything."""

import json
from typing import Any

import pytest
from conftest import TWO_STEPS, MakeProject, Project

RECIPE = f"{TWO_STEPS}  c: {{use: steps.limit, rows: b}}\n"
FILES = {"recipe.yaml": RECIPE, "rows.txt": "one\ntwo\n"}


@pytest.fixture
def t(built: MakeProject) -> Project:
    """A built project of three steps."""
    return built(FILES)


def plan(t: Project, *args: str) -> dict[str, dict[str, Any]]:
    """The plan by step."""
    lines = [json.loads(line) for line in t.run("plan", "--json", *args).out.splitlines()]
    names = ["step", "use", "state", "reason", "key", "environment", "executor", "resources"]
    names += ["jobs", "estimate", "notes", "error", "blocked_by", "accepted"]
    assert all(list(line) == names for line in lines)
    return {line["step"]: line for line in lines}


def states(t: Project, *args: str) -> list[str]:
    """Their states, in order."""
    return [line["state"] for line in plan(t, *args).values()]


def test_a_plan_runs_nothing(project: MakeProject) -> None:
    t = project(FILES)
    assert states(t) == ["run", "pending", "pending"]
    assert not (t.folder / "build").exists()
    code, out, err = t.run("plan")
    assert (code, err) == (0, "")
    assert "3 steps: 1 run, 2 pending" in out
    assert "waits for a" in out


def test_the_graph_is_not_printed_as_json(project: MakeProject) -> None:
    code, out, err = project(FILES).here("plan", "--graph", "dot", "--json")
    assert (code, out) == (2, "")
    assert "the graph isn't JSON" in err


def test_a_plan_is_what_the_build_then_does(t: Project) -> None:
    assert states(t) == ["cached", "cached", "cached"]
    assert states(t, "--set", "data.b.tag=2") == ["cached", "run", "pending"]
    assert plan(t, "--set", "data.b.tag=2")["b"]["reason"] == "setting tag: 1 → 2"
    assert t.ran("--set", "data.b.tag=2") == ["b", "c"]
    compared = "compared with the last build, which had --set data.b.tag=2"
    t.edit("recipe.yaml", "tag: 1", "tag: 3")
    out = t.run("plan").out
    assert "setting tag: 2 → 3" in out
    assert compared in out
    assert compared not in t.run("plan", "--set", "data.b.tag=2").out


@pytest.mark.parametrize(("file", "old", "new", "reason"), [
    ("rows.txt", "one", "uno", "file path rows.txt changed"),
    ("recipe.yaml", "path: rows.txt", "path: [rows.txt, rows.txt]", ""),
    ("steps.py", 'count("source")', 'count("a source")', "code steps.py: Source changed"),
    ("recipe.yaml", "use: steps.source, path: rows.txt", "use: steps.script", "step type: steps.s"),
])  # fmt: skip
def test_a_plan_says_why(t: Project, file: str, old: str, new: str, reason: str) -> None:
    t.edit(file, old, new)
    found = plan(t)["a"]
    assert found["reason"].startswith(reason)
    assert found["state"] == ("run" if reason else "cached")


GATED = f"""{RECIPE}evaluate:
  gate: {{use: steps.score, rows: a, score: 0.25, least: 0.5}}
export:
  pack: {{use: steps.pack, needs: gate}}
  after: {{use: steps.pack, needs: pack}}
"""


def test_a_plan_states_a_failed_requirement_and_what_it_blocks(project: MakeProject) -> None:
    t = project({**FILES, "recipe.yaml": GATED})
    assert "fails:" not in t.run("plan").out, "nothing is kept that could be judged"
    assert t.run("build").code == 1
    of = plan(t)
    assert {name: of[name]["state"] for name in ("gate", "pack", "after")} == {
        "gate": "cached", "pack": "blocked", "after": "blocked",
    }  # fmt: skip
    assert of["gate"]["error"]["what"] == "accuracy is 0.25, required 0.5"
    assert of["after"]["blocked_by"] == ["gate"]
    out = t.run("plan").out
    assert "         fails: accuracy is 0.25, required 0.5 (recipe.yaml:9:" in out
    assert "\n         blocks pack, after\n" in out
    assert "6 steps: 3 cached, 1 run, 2 blocked" in out
    for args in ([], ["gate"]):
        shown = t.run("show", *args)
        assert shown.code == 0
        assert "gate fails the build: accuracy is 0.25, required 0.5 (" in shown.out
        assert "  blocks pack, after\n" in shown.out
    t.edit("recipe.yaml", "least: 0.5", "least: 0.2")
    assert "blocked" not in t.run("plan").out
    assert "fails" not in t.run("show").out


def test_the_graph_has_a_box_for_each_step_in_the_colour_of_its_state(t: Project) -> None:
    mermaid = t.run("plan", "--graph", "mermaid", "--set", "data.b.tag=2").out.splitlines()
    assert mermaid[:6] == [
        "flowchart LR", '  s0["a<br>steps.source"]:::cached', '  s1["b<br>steps.copy"]:::run',
        '  s2["c<br>steps.limit"]:::pending', "  s0 --> s1", "  s1 --> s2",
    ]  # fmt: skip
    dot = t.run("plan", "--graph", "dot", "--matrix", "data.b.tag=2,3").out
    assert dot.startswith("digraph {")
    assert '  s1 [label="b (2 variants)\\nsteps.copy" style=filled' in dot
    assert dot.endswith("  s0 -> s1\n  s1 -> s2\n}\n")
