"""`finery explain`: the parts of a step's key that changed."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import MakeProject, Project
from installing import make_key, write_plugin

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


PLUGIN = """
from finery import Dataset, Job, Step, setting, takes

class X(Step):
    "Pass rows on."
    rows: Dataset = takes(help="The rows.")
    tag: int = setting(1, help="Any number.")
    {}
    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, self.rows)

@hookimpl
def finery_steps():
    return {{"shop.x": X}}
"""
SHOP = """\
finery: 1
name: t
data:
  a: {use: data.file, path: rows.jsonl}
  b: {use: shop.x, rows: a, tag: 3}
"""


def test_a_step_of_other_versions_in_a_store(tmp_path: Path) -> None:
    """In the shared store, and, since another recipe built it, in the own one."""
    shared, key = tmp_path / "shared", make_key(tmp_path / "key")
    first, second = Project(tmp_path / "first"), Project(tmp_path / "second")
    for t, version, new in (
        (first, "1.5", ""),
        (second, "2.0", 'u: int = setting(1, help="New.")'),
    ):
        t.write({"recipe.yaml": SHOP, "rows.jsonl": '{"prompt": "p", "completion": "a"}\n'})
        (t.folder / ".git").mkdir()
        write_plugin(t, "shop", PLUGIN.format(new), version)
        t.env |= {"FINERY_REMOTE": f"file://{shared}", "FINERY_TRUST": f'["{key}"]'}
    first.env["FINERY_SIGNING_KEY"] = str(tmp_path / "key")
    assert first.run("build", "--push").code == 0
    there = f"the shared store file://{shared} has it, made with shop-shop 1.5 (here 2.0)\n"
    assert second.run("explain", "b").out == f"b (shop.x) will run: never built\n{there}"
    (entry,) = json.loads(second.run("explain", "b", "--json").out)["elsewhere"]
    assert entry["versions"] == {"shop-shop": ["1.5", "2.0"]}
    assert "has it" not in second.run("plan").out
    assert "has it" not in second.run("explain", "b", "--set", "data.b.tag=4").out
    assert second.run("build").code == 0

    third = "2.1"
    for path in (second.folder / "site").glob("*-2.0.dist-info"):
        path.rename(path.with_name(path.name.replace("2.0", third)))
    second.edit("site/shop_shop.py", "Pass rows on.", "Pass the rows on.")
    second.write({"other.yaml": SHOP.replace("name: t", "name: other")})
    there, here = (
        f"{store} has it, made with shop-shop {version} (here {third})\n"
        for store, version in ((f"the shared store file://{shared}", "1.5"), ("this store", "2.0"))
    )
    assert second.run("explain", "other.yaml", "b").out.endswith(f"never built\n{here}{there}")

    entries = [path for path in shared.glob("versions/*/*") if b"shop-shop" in path.read_bytes()]
    content = entries[0].read_bytes()
    for wrong in (b"", b"\xff", content.replace(b"1.5", b"1.6"), content.rpartition(b"\n")[0]):
        entries[0].write_bytes(wrong)
        ran = second.run("explain", "other.yaml", "b")
        assert (ran.code, there in ran.out, here in ran.out, ran.err) == (0, False, True, "")
    entries[0].write_bytes(content)
    assert there in second.run("explain", "other.yaml", "b").out
    for path in shared.glob("records/*/*"):
        path.unlink()
    assert there not in second.run("explain", "other.yaml", "b").out
