"""`finery build` as a person meets it: what it prints where, and its exit codes."""

import json

import pytest
from conftest import TWO_STEPS, MakeProject, Project


@pytest.fixture
def t(project: MakeProject) -> Project:
    """Two steps."""
    return project({"recipe.yaml": TWO_STEPS, "rows.txt": "one\ntwo\n"})


def test_a_build_says_what_runs_and_why_on_stderr_and_where_on_stdout(t: Project) -> None:
    code, out, err = t.run("build")
    assert code == 0
    assert out == "outputs: build/t\n"
    lines = [line.split() for line in err.splitlines()]
    assert lines[0] == ["run", "a", "steps.source", "never", "built"]
    assert [line[:2] for line in lines[:4]] == [
        ["run", "a"],
        ["done", "a"],
        ["run", "b"],
        ["done", "b"],
    ]
    assert "2 steps: 2 built, 0 cached" in err
    code, out, err = t.run("build", "--set", "data.b.tag=2")
    assert (code, out) == (0, "outputs: build/t\n")
    assert "setting tag: 1 → 2" in err
    assert "1 built, 1 cached" in err


BUNDLES = """\
from typing import Any

from finery import Bundle, Job, Step, hookimpl, setting


class Shipped(Step, seeded=False):
    '''A bundle with these facts.'''

    about: dict[str, Any] = setting(help="Facts.")

    def run(self, job: Job) -> Bundle:
        (job.out / "answer.pyz").write_text("")
        return Bundle(job.out, meta=self.about)


@hookimpl
def finery_steps():
    return {"ship.ped": Shipped}
"""


def test_only_commands_that_work_here_are_printed_at_the_end(project: MakeProject) -> None:
    ways = {
        "server": {"format": "llama", "run": "sh run.sh"},
        "page": {"format": "page", "run": "sh open.sh"},
        "packed": {"format": "zipapp", "run": "./answer.pyz TEXT"},
        "gone": {"format": "zipapp", "run": "./other.pyz TEXT"},
        "other": {"format": "ollama", "run": "no-such-program create t"},
    }
    steps = {name: {"use": "ship.ped", "about": about} for name, about in ways.items()}
    recipe = {"finery": 1, "name": "t", "plugins": ["./ship.py"], "export": steps}
    made = project({"own.yaml": json.dumps(recipe), "ship.py": BUNDLES})
    ran = made.run("build", "own.yaml")
    assert ran.code == 0, ran.err
    _, *ways_to_run = ran.out.splitlines()
    assert sorted(ways_to_run) == [
        "run packed:  cd build/t/packed && ./answer.pyz TEXT",
        "run page:  cd build/t/page && sh open.sh",
        "serve server:  finery serve own.yaml server",
    ]


def test_nothing_to_do_is_one_line(t: Project) -> None:
    t.run("build")
    code, out, err = t.run("build")
    assert (code, out) == (0, "")
    assert err.startswith("2 steps, nothing to do")


def test_the_recipe_may_be_named_by_file_or_folder_from_anywhere(t: Project) -> None:
    (t.folder / "elsewhere").mkdir()
    away = Project(t.folder / "elsewhere")
    assert away.run("build", "..").code == 0
    assert away.run("build", "../recipe.yaml").code == 0
    assert (t.folder / "build/t/b").is_dir()
    code, _, err = away.run("build")
    assert code == 2
    assert "there is no recipe recipe.yaml" in err


@pytest.mark.parametrize(("args", "says"), [
    (["--step", "c"], "no step 'c'"),
    (["--set", "data.b.tag=high"], "--set data.b.tag=high"),
    (["--set", "nonsense"], "--set expects PATH=VALUE"),
    (["--executor", "moon"], "executor 'moon' was not found"),
])  # fmt: skip
def test_a_wrong_call_is_exit_code_2_and_runs_nothing(
    t: Project, args: list[str], says: str
) -> None:
    code, out, err = t.run("build", *args)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not (t.folder / "build").exists()


def test_a_missing_file_is_named_with_its_place_before_anything_runs(t: Project) -> None:
    (t.folder / "rows.txt").rename(t.folder / "rowz.txt")
    code, _, err = t.run("build")
    assert code == 2
    assert "recipe.yaml:5:32: error: there is no file rows.txt" in err
    assert "did you mean 'rowz.txt'?" in err
    assert "run " not in err


def test_unmet_requirements_show_scores_and_the_reason(t: Project) -> None:
    gate = {"gate": {"use": "steps.score", "rows": "a", "score": 0.25, "least": 0.5}}
    t.write({"recipe.yaml": f"{TWO_STEPS}evaluate: {json.dumps(gate)}\n"})
    code, out, err = t.run("build")
    assert code == 1
    assert "25.0 %" in out
    assert "accuracy is 0.25, required 0.5" in err
    assert "1 failed" in err
