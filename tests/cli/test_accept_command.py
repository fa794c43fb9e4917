"""`finery accept`: results from before a change of code still count."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import MakeProject, Project

STEPS = '''
from checks import LIMIT, MARK

from finery import Dataset, Files, Job, Step, hookimpl, setting, takes


class Read(Step, seeded=False):
    """Lines of a file."""

    path: Files = setting(help="The file.")
    n: int = setting(1, help="Put into each row.")

    def run(self, job: Job) -> Dataset:
        lines = self.path.paths[0].read_text().splitlines()[:LIMIT]
        return Dataset.write(job.out, ({"prompt": line, "n": self.n} for line in lines))


class Shout(Step, seeded=False):
    """Rows in capitals."""

    rows: list[Dataset] = takes(help="The rows.")

    def run(self, job: Job) -> Dataset:
        rows = (row for each in self.rows for row in each)
        return Dataset.write(job.out, ({"prompt": r["prompt"].upper() + MARK} for r in rows))


@hookimpl
def finery_steps():
    return {"w.read": Read, "w.shout": Shout}
'''
CHECKS = "LIMIT = 100\nMARK = '!'\n"
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: w.read, path: rows.txt}
  b: {use: w.read, path: rows.txt, n: 2}
  c: {use: w.shout, rows: [a, b]}
"""
FILES = {"steps.py": STEPS, "checks.py": CHECKS, "recipe.yaml": RECIPE, "rows.txt": "one\ntwo\n"}


@pytest.fixture
def t(built: MakeProject) -> Project:
    """A built project."""
    return built(FILES)


def limit(t: Project, value: int | str) -> None:
    """Change code that both step types use; outputs differ only below 2."""
    t.write({"checks.py": f"LIMIT = {value}\nMARK = '!' + {value} * ''\n"})


def states(t: Project, *args: str) -> dict[str, str]:
    """Step → its state, with `+` if changes are accepted."""
    lines = [json.loads(line) for line in t.run("plan", "--json", *args).out.splitlines()]
    return {s["step"]: s["state"] + "+" * bool(s["accepted"]) for s in lines if "step" in s}


def accept(t: Project, *args: str, code: int = 0) -> str:
    """What the command prints."""
    ran = t.run("accept", *args)
    assert ran.code == code, ran
    return ran.out + ran.err


def accepted(t: Project) -> list[str]:
    """The lines of `recipe.lock`."""
    lock = t.folder / "recipe.lock"
    lines = lock.read_text().splitlines() if lock.exists() else []
    return [line for line in lines if line.startswith("- ")]


def test_a_line_lets_all_steps_of_a_type_keep_their_results(t: Project) -> None:
    limit(t, 200)
    assert states(t) == {"a": "run", "b": "run", "c": "pending"}
    out = accept(t, "a")
    assert "code checks.py" in out
    assert "1 change accepted for w.read" in out
    assert "keep their results: a, b\n" in out
    assert states(t) == {"a": "cached+", "b": "cached+", "c": "run"}
    assert "accepted: code checks.py" in t.run("plan").out
    assert "up to date: accepted: code checks.py" in t.run("explain", "a").out
    assert t.ran() == ["c"]
    (line,) = accepted(t)
    assert line.startswith("- {part: code checks.py, old: ")
    assert line.endswith(", for: w.read}")


def test_git_shows_one_line(t: Project) -> None:
    def git(*args: str) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", *args]
        return subprocess.run(
            command, cwd=t.folder, check=True, capture_output=True, text=True
        ).stdout

    shutil.rmtree(t.folder / ".git")
    git("init", "-q")
    for value in (200, 300):
        limit(t, value)
        accept(t, "a")
        if value == 200:
            git("add", "recipe.lock")
            git("commit", "-qm", "accept")
    changed = [line for line in git("diff", "recipe.lock").splitlines() if line[:2] in ("+-", "--")]
    assert len([line for line in changed if line.startswith("+- {")]) == 1
    assert not [line for line in changed if line.startswith("-- {")]


def test_builds_runs_and_reports_say_what_is_accepted(t: Project) -> None:
    limit(t, 200)
    accept(t, "a")
    accept(t, "c")
    err = t.run("build").err
    assert "cached  a  w.read  accepted: code checks.py" in err
    assert "3 steps, nothing to do, 3 accepted (" in err
    time.sleep(0.3)  # until the stamp is sure of the lock file
    t.run("build")
    assert "3 steps, nothing to do, 3 accepted\n" in t.run("build").err
    events = t.events()
    assert {e.get("reason") for e in events if e["event"] == "step_cached"} == {
        "accepted: code checks.py"
    }
    t.edit("recipe.yaml", "n: 2", "n: 3")
    assert t.ran() == ["b", "c"]
    assert "a (accepted: code checks.py)" in t.run("runs").out
    run = json.loads(t.run("runs", "--json").out.splitlines()[0])
    assert [s["reason"] for s in run["steps"] if s["step"] == "a"] == ["accepted: code checks.py"]
    assert "accepted: code checks.py" in report(t).replace("<wbr>", "")
    assert "accepted: code checks.py" in report(t, "--run", "last").replace("<wbr>", "")


def report(t: Project, *args: str) -> str:
    """The page about the build."""
    assert t.run("report", "-o", "report.html", *args).code == 0
    return (t.folder / "report.html").read_text()


def test_another_clone_with_the_same_store_sees_it(t: Project, tmp_path_factory: Any) -> None:
    shared = f"file://{tmp_path_factory.mktemp('shared')}"
    assert t.run("build", "--remote", shared, "--push").code == 0
    limit(t, 200)
    accept(t, "a")
    accept(t, "c")
    clone = Project(tmp_path_factory.mktemp("clone"))
    clone.write({name: (t.folder / name).read_text() for name in (*FILES, "recipe.lock")})
    (clone.folder / ".git").mkdir()
    err = clone.run("build", "--remote", shared).err
    assert "3 steps, nothing to do, 3 accepted" in err
    assert [row["prompt"] for row in clone.rows("c")] == ["ONE!", "TWO!", "ONE!", "TWO!"]
    (clone.folder / "recipe.lock").unlink()
    assert states(clone) == {"a": "run", "b": "run", "c": "pending"}


def test_verify_refuses_another_output(t: Project) -> None:
    limit(t, 1)
    out = accept(t, "a", "--verify", code=1)
    assert "a: another output than before" in out
    assert "nothing is accepted" in out
    assert accepted(t) == []
    limit(t, 50)
    out = accept(t, "a", "--verify")
    assert "a: the same output as before" in out
    assert states(t) == {"a": "cached+", "b": "cached+", "c": "run"}


def test_verify_runs_what_was_accepted_before(t: Project) -> None:
    """It keeps the line of a step that makes the same again, and removes that of another."""
    limit(t, 200)
    accept(t, "a")
    (line,) = accepted(t)
    out = accept(t, "b", "--verify")
    assert "once more, to compare its output" in out
    assert "never built" not in out
    assert "b: the same output as before" in out
    assert "b: still accepted: code checks.py" in out
    limit(t, 1)
    accept(t, "a")
    out = accept(t, "a", "--verify", code=1)
    assert "a: another output than before" in out
    assert "1 change withdrawn for w.read" in out
    assert accepted(t) == [line]
    assert states(t)["a"] == "run"
    accept(t, "a")
    ran = t.run("accept", "a", "--verify", "--json")
    assert ran.code == 1
    assert [json.loads(line).get("state") for line in ran.out.splitlines()] == [None, "withdrawn"]


def test_another_recipe_has_no_result_of_this_one(t: Project) -> None:
    t.write({"other.yaml": RECIPE.replace("name: t", "name: other")})
    limit(t, 200)
    out = accept(t, "other.yaml", "a", code=2)
    assert "other.yaml has no result here of step 'a' from before the change" in out


def test_a_setting_an_input_and_a_file_are_never_covered(t: Project) -> None:
    limit(t, 200)
    accept(t, "a")
    assert states(t, "--set", "data.a.n=7")["a"] == "run"
    out = accept(t, "a", "--set", "data.a.n=7", code=2)
    assert "setting n: 1 → 7" in out
    assert "fix: finery build --step a" in out
    t.edit("rows.txt", "one", "1")
    assert states(t)["a"] == "run"
    assert "file path rows.txt" in accept(t, "a", code=2)
    assert t.ran() == ["a", "b", "c"]
    limit(t, 300)
    assert states(t)["c"] == "pending"
    t.edit("rows.txt", "1", "2")
    accept(t, "c")  # its code; its inputs aren't known yet
    assert t.ran() == ["a", "b", "c"]


def test_pending_steps_are_covered(t: Project) -> None:
    limit(t, 200)
    assert "wait for their inputs: c\n" in accept(t, "c")
    accept(t, "b")
    assert states(t) == {"a": "cached+", "b": "cached+", "c": "cached+"}
    assert t.ran() == []


def test_verify_takes_inputs_that_are_accepted(t: Project) -> None:
    limit(t, 200)
    accept(t, "a")
    assert "isn't built for this recipe: b" not in accept(t, "c", "--verify")
    assert states(t) == {"a": "cached+", "b": "cached+", "c": "cached+"}


def test_undo(t: Project) -> None:
    limit(t, 200)
    accept(t, "a")
    accept(t, "c")
    assert "1 change withdrawn for w.read" in accept(t, "b", "--undo")
    assert states(t) == {"a": "run", "b": "run", "c": "pending"}
    assert len(accepted(t)) == 1
    assert "a: nothing is accepted for w.read" in accept(t, "a", "--undo")
    accept(t, "c", "--undo")
    assert not (t.folder / "recipe.lock").exists()


def test_chains_are_followed(t: Project) -> None:
    """`b` gets a result of its own between two changes that are accepted."""
    limit(t, 200)
    accept(t, "a")
    assert t.run("build", "--force", "b").code == 0
    limit(t, 300)
    assert states(t) == {"a": "run", "b": "run", "c": "pending"}
    accept(t, "b")
    assert states(t)["a"] == "cached+"
    assert states(t)["b"] == "cached+"


def test_a_change_back_replaces_the_line(t: Project) -> None:
    limit(t, 200)
    accept(t, "a")
    assert t.run("build", "--force", "a").code == 0
    t.write({"checks.py": CHECKS})
    assert states(t)["a"] == "cached"  # its own result is kept
    shutil.rmtree(t.folder / ".finery")
    limit(t, 200)
    t.run("build")
    t.write({"checks.py": CHECKS})
    accept(t, "a")
    assert len(accepted(t)) == 1
    assert states(t)["a"] == "cached+"
    limit(t, 200)
    assert states(t)["a"] == "cached"


def test_what_was_accepted_together_serves_nothing_by_halves(t: Project) -> None:
    more = "from checks import LIMIT, MARK", "from checks import LIMIT, MARK\nfrom more import X"
    t.edit("steps.py", *more)
    t.edit("steps.py", "[:LIMIT]", "[: LIMIT + X]")
    t.write({"more.py": "X = 1\n"})
    t.run("build")
    limit(t, 200)
    t.write({"more.py": "X = 2\n"})
    accept(t, "a")
    assert len(accepted(t)) == 2
    assert states(t)["a"] == "cached+"
    t.write({"more.py": "X = 1\n"})  # as it was, with the new limit, nothing was looked at
    assert states(t)["a"] == "run"


def test_a_result_of_todays_code_comes_first(t: Project) -> None:
    limit(t, 1)
    accept(t, "a")
    assert t.run("build", "--force", "a").code == 0
    assert states(t)["a"] == "cached"
    assert [row["prompt"] for row in t.rows("a")] == ["one"]
    accept(t, "a", "--undo")
    assert states(t)["a"] == "cached"


def test_variants_are_covered_by_one_line(built: MakeProject) -> None:
    recipe = RECIPE + "matrix: {data.a.n: [3, 4, 5]}\n"
    t = built({**FILES, "recipe.yaml": recipe})
    limit(t, 200)
    out = accept(t, "a", "--verify")
    assert out.count("the same output as before") == 1
    assert len(accepted(t)) == 1
    assert {s for name, s in states(t).items() if name[0] in "ab"} == {"cached+"}
    assert sum(name.startswith("a@") for name in states(t)) == 3


@pytest.mark.parametrize(
    ("prepare", "step", "code", "text"),
    [
        (lambda t: None, "a", 0, "nothing to accept"),
        (lambda t: None, "aa", 2, "did you mean 'a'?"),
        (
            lambda t: shutil.rmtree(t.folder / ".finery"),
            "a",
            2,
            "recipe.yaml has no result here of step 'a' from before the change",
        ),
        (lambda t: limit(t, "1/0"), "a", 2, "division by zero"),
    ],
)
def test_nothing_to_accept(
    t: Project, prepare: Callable[[Project], None], step: str, code: int, text: str
) -> None:
    prepare(t)
    assert text in accept(t, step, code=code)
    assert accepted(t) == []


def test_json(t: Project) -> None:
    limit(t, 200)
    (line,) = map(json.loads, t.run("accept", "a", "--json").out.splitlines())
    assert (line["step"], line["for"], line["state"]) == ("a", "w.read", "accepted")
    assert line["part"] == "code checks.py"
    assert len(line["old"]) == len(line["new"]) == 64
    (line,) = map(json.loads, t.run("explain", "a", "--json").out.splitlines())
    assert (line["part"], line["accepted"]) == ("code checks.py", True)
    (line,) = map(json.loads, t.run("accept", "a", "--json").out.splitlines())
    assert line["reason"].startswith("nothing to accept")
    (line,) = map(json.loads, t.run("accept", "a", "--undo", "--json").out.splitlines())
    assert line["state"] == "withdrawn"


DIGEST = 64 * "0"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{part: setting n, old: 1, new: 2, for: w.read}", "a change of 'setting n' can't be"),
        (f"{{part: 'input rows[0]', old: {DIGEST}, for: w.read}}", "'input rows[0]' can't be"),
        ("{part: key format, old: 4, new: 5, for: w.read}", "'key format' can't be accepted"),
        ("{part: package x, old: 1, new: 2}", "missing required field `for`"),
        ("{part: package x, for: w.read}", "needs `old` or `new`"),
        ("{part: package x, old: 1, new: 2, for: w.read, why: so}", "unknown field `why`"),
        ("{part: [1], old: 1, for: w.read}", "Expected `str`"),
        ("x", "Expected `object`"),
        ("!!python/object:os.system {}", "can't be read"),
        ("2024-13-45", "can't be read"),
    ],
)
def test_a_strangers_line_is_an_error_with_its_place(t: Project, line: str, text: str) -> None:
    good = "{part: package y, old: '1', new: '2', for: w.read}"
    t.write({"recipe.lock": f"# A comment.\naccepted:\n- {good}\n- {line}\n"})
    for command in ("plan", "build"):
        code, _, err = t.run(command)
        assert code == 2
        assert text in err
        assert "recipe.lock" in err
        assert "can't be read" in err or "recipe.lock:4: " in err


def test_pins_and_accepted_changes_leave_each_other_alone(t: Project) -> None:
    t.write({"recipe.lock": "x: one\n"})
    limit(t, 200)
    accept(t, "a")
    assert "\nx: one\n" in (t.folder / "recipe.lock").read_text()
    from finery.recipe.lock import Lock

    lock = Lock(t.folder / "recipe.yaml")
    lock.forget()
    lock.set("y", "two")
    assert len(accepted(t)) == 1
    assert "x: one" not in (t.folder / "recipe.lock").read_text()
    assert states(t)["a"] == "cached+"


def test_two_lists_are_an_error(t: Project) -> None:
    entry = "accepted:\n- {part: package y, old: '1', new: '2', for: w.read}\n"
    t.write({"recipe.lock": entry + entry})
    code, _, err = t.run("plan")
    assert code == 2
    assert "recipe.lock:3: error: there are two lists of 'accepted'" in err


def test_verify_needs_the_inputs(t: Project) -> None:
    limit(t, 200)
    out = accept(t, "c", "--verify", code=2)
    assert "step 'c' waits for a, b" in out
    assert accepted(t) == []


def test_the_stamp_notices_the_lock_file(t: Project) -> None:
    limit(t, 200)
    accept(t, "a")
    accept(t, "c")
    time.sleep(0.3)
    assert t.ran() == []
    assert "nothing to do, 3 accepted\n" in t.run("build").err
    accept(t, "a", "--undo")
    assert t.ran() == ["a", "b"]
