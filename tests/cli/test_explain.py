"""`finery explain`: the parts of a step's key that changed."""

import json
import os
import signal
import time

import pytest
from conftest import MakeProject, Project

RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source, path: rows.txt}
  a2: {use: steps.source, path: rows.txt}
  b: {use: steps.copy, rows: [a, a2], tag: 1}
  c: {use: steps.shuffle, rows: b}
"""


@pytest.fixture
def t(built: MakeProject) -> Project:
    """A built project."""
    return built({"recipe.yaml": RECIPE, "rows.txt": "one\ntwo\n"})


def parts(t: Project, step: str, *args: str) -> dict[str, tuple[object, object]]:
    """Changed part → (old, new)."""
    lines = [json.loads(line) for line in t.run("explain", step, "--json", *args).out.splitlines()]
    return {line["part"]: (line["old"], line["new"]) for line in lines if "part" in line}


def test_up_to_date(t: Project) -> None:
    code, out, _ = t.run("explain", "b")
    assert code == 0
    assert "b (steps.copy) is up to date" in out
    assert "nothing changed since its last build" in out


def test_a_changed_setting(t: Project) -> None:
    assert parts(t, "b", "--set", "data.b.tag=5") == {"setting tag": (1, 5)}
    out = t.run("explain", "b", "--set", "data.b.tag=5").out
    assert "b (steps.copy) will run" in out
    assert "setting tag  1 → 5" in out


def test_long_texts_are_shown_where_they_differ(built: MakeProject) -> None:
    long = "# " + 30 * "the same " + "alpha" + 30 * " and more"
    recipe = f"{RECIPE}  d: {{use: steps.script, rows: a, code: '{long}'}}\n"
    t = built({"recipe.yaml": recipe, "rows.txt": "one\n"})
    t.edit("recipe.yaml", "alpha", "beta")
    for command in (["plan"], ["explain", "d"], ["diff", "last", "now"]):
        out = t.run(*command).out
        assert "same alpha and" in out
        assert "same beta and" in out


def test_engines_of_models_that_are_not_built_did_not_change(project: MakeProject) -> None:
    t = project({
        "recipe.yaml": (
            "finery: 1\nname: t\n"
            "data: {rows: {use: data.file, path: rows.jsonl}}\n"
            "models: {base: {use: baseline.majority, rows: rows}}\n"
            "evaluate: {test: {use: eval.exact, models: base, rows: rows}}\n"
        ),
        "rows.jsonl": '{"prompt": "one", "completion": "a"}\n',
    })  # fmt: skip
    assert t.run("build").code == 0
    assert "engine baseline-majority" in t.run("explain", "test", "--all").out
    t.write({"rows.jsonl": '{"prompt": "two", "completion": "b"}\n'})
    assert parts(t, "test").keys() == {"input models[0]", "input rows[0]"}
    assert "test (eval.exact) is pending: waits for base, rows" in t.run("explain", "test").out


def test_a_changed_file_and_what_waits_for_it(t: Project) -> None:
    t.write({"rows.txt": "three\n"})
    assert list(parts(t, "a")) == ["file path rows.txt"]
    assert list(parts(t, "b")) == ["input rows[0]", "input rows[1]"]
    assert "b (steps.copy) is pending" in t.run("explain", "b").out


def test_after_the_build_it_tells_why_the_step_ran(t: Project) -> None:
    t.ran("--set", "data.b.tag=5")
    out = t.run("explain", "b", "--set", "data.b.tag=5").out
    assert "changed between its last two builds" in out
    assert "setting tag  1 → 5" in out


def test_the_seed_and_the_code(t: Project) -> None:
    t.edit("steps.py", "exec(code, names)", "str(code)")  # a file that runs texts counts as a whole
    t.ran()
    t.edit("recipe.yaml", "name: t", "name: t\nseed: 9")
    assert list(parts(t, "c")) == ["seed"]
    t.edit("steps.py", "count(", "count ( ")
    assert list(parts(t, "c")) == ["seed"]
    t.edit("steps.py", "random.Random(job.seed)", "random.Random(job.seed + 1)")
    assert list(parts(t, "c")) == ["code steps.py", "seed"]
    assert "b (steps.copy) is up to date" in t.run("explain", "b").out  # in the same file


def test_a_killed_build_is_remembered_as_far_as_it_came(project: MakeProject) -> None:
    recipe = (
        "finery: 1\nname: t\nplugins: [./steps.py]\ndata:\n"
        "  a: {use: steps.source, path: rows.txt}\n"
        "  b:\n    use: steps.script\n    rows: a\n"
        "    code: import time; Path('on').touch(); time.sleep(600)\n"
    )
    t = project({"recipe.yaml": recipe, "rows.txt": "one\n"})
    process = t.start("build")
    while not (t.folder / "on").exists():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)  # quick steps are recorded in groups, ten times a second
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    t.write({"rows.txt": "two\n"})
    assert "file path rows.txt" in t.run("explain", "a").out
