"""`finery diff`: two states of a recipe held against each other, on one real project."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Project
from judged import RECIPE, commit, files

from finery_eval import stats


@pytest.fixture(scope="module")
def two_builds(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Built as committed; then with a larger share of rows learned and some rows changed."""
    t = Project(tmp_path_factory.mktemp("diff"))
    t.write(files())
    commit(t.folder)
    t.ran()
    t.edit("recipe.yaml", "share: 0.5", "share: 0.9")
    lines = (t.folder / "rows.jsonl").read_text("utf-8").splitlines(keepends=True)
    lines[5] = lines[5].replace("answer 5", "answer five")
    extra = json.dumps({"prompt": "question 99", "completion": "answer 99"}) + "\n"
    (t.folder / "rows.jsonl").write_text("".join([*lines[1:], extra]), "utf-8")
    assert t.ran() == ["rows", "sft", "shipped", "test"]
    return t


def diff(project: Project, *words: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(the first line of `--json`, step → its line)."""
    done = project.run("diff", "--json", *words)
    assert done.code == 0, done.err
    head, *steps = [json.loads(line) for line in done.out.splitlines()]
    return head, {step["step"]: step for step in steps}


def predictions(project: Project, run: str) -> dict[tuple[str, str], dict[str, Any]]:
    """(model, row id) → the line of predictions.jsonl of `test` in a run."""
    shown = json.loads(project.run("show", "test", "--run", run, "--json").out)
    lines = Path(shown["path"], "predictions.jsonl").read_text("utf-8").splitlines()
    return {(p["model"], p["id"]): p for p in map(json.loads, lines)}


def test_settings_files_and_unchanged_steps_are_named(two_builds: Project) -> None:
    head, steps = diff(two_builds)
    assert head["same"] == ["base"]
    changes = {name: [c["part"] for c in step["changes"]] for name, step in steps.items()}
    assert changes == {"rows": ["file path rows.jsonl"], "sft": ["setting share"], "shipped": [],
                       "test": []}  # fmt: skip
    assert steps["sft"]["changes"][0]["old"] == 0.5
    assert steps["sft"]["changes"][0]["new"] == 0.9


def test_changed_inputs_are_named_in_one_line(two_builds: Project) -> None:
    steps = diff(two_builds)[1]
    assert {name: step["inputs"] for name, step in steps.items()} == {
        "rows": [], "sft": ["rows[0]"], "shipped": ["model[0]"],
        "test": ["models[1]", "models[2]", "rows[0]"],
    }  # fmt: skip
    (line,) = re.findall(r"with another input +(.*)", two_builds.run("diff").out)
    assert line == "sft (rows), shipped (sft), test (sft, shipped, rows)"


def test_rows_are_matched_by_id_and_then_by_prompt(two_builds: Project) -> None:
    rows = diff(two_builds)[1]["rows"]["outputs"][0]["difference"]
    assert [len(rows[kind]) for kind in ("added", "removed", "changed")] == [1, 1, 1]
    (pair,) = rows["examples"]["changed"]
    assert [row["completion"] for row in pair] == ["answer 5", "answer five"]
    assert rows["examples"]["removed"][0]["prompt"] == "question 0"


def test_the_flips_are_those_of_the_predictions_and_the_test_is_mcnemars(
    two_builds: Project,
) -> None:
    found = diff(two_builds)[1]["test"]["outputs"][0]["difference"]["models"]["sft"]
    before, after = predictions(two_builds, "previous"), predictions(two_builds, "last")
    shared = [place for place in after if place in before and place[0] == "sft"]
    gained = [i for _, i in shared if after["sft", i]["correct"] > before["sft", i]["correct"]]
    lost = [i for _, i in shared if after["sft", i]["correct"] < before["sft", i]["correct"]]
    assert len(gained) == 9
    assert [flip["id"] for flip in found["gained"]] == gained
    assert [flip["id"] for flip in found["lost"]] == lost
    for flip in found["gained"]:
        assert flip["before"] == before["sft", flip["id"]]["answer"] == "a guess"
        assert flip["after"] == after["sft", flip["id"]]["answer"] == flip["expected"]
    test = found["metrics"]["accuracy"]["test"]
    assert test["p_value"] == stats.mcnemar_exact(len(gained), len(lost))
    models = diff(two_builds)[1]["test"]["outputs"][0]["difference"]["models"].values()
    tests = [m["test"] for of in models for m in of["metrics"].values() if m["test"]]
    assert [t["p_holm"] for t in tests] == stats.holm([t["p_value"] for t in tests])
    assert (found["paired"], found["only_before"], found["only_after"]) == (18, 2, 2)


def test_curves_time_and_size_are_beside_each_other(two_builds: Project) -> None:
    sft = diff(two_builds)[1]["sft"]
    curves = sft["outputs"][0]["difference"]["curves"]
    assert curves["eval_loss"]["lowest"] == [pytest.approx(2.6), pytest.approx(2.2)]
    assert all(seconds > 0 for seconds in sft["seconds"])
    assert all(sft["bytes"])
    out = two_builds.run("diff", "--flips", "2").out
    assert out.startswith("better: sft accuracy +40.0 points (test), shipped")
    assert "validation loss: at the end 2.6 → 2.2, lowest 2.6 → 2.2" in out
    assert "sft: wrong in A, right in B, 2 of 9" in out
    assert "20 rows: 1 added, 1 removed, 1 changed" in out


def test_a_revision_is_read_without_touching_the_working_tree(two_builds: Project) -> None:
    paths = [p for p in two_builds.folder.rglob("*") if ".finery" not in p.parts]
    before = {p: p.lstat().st_mtime_ns for p in paths}
    by_revision, by_run = diff(two_builds, "HEAD")[1], diff(two_builds)[1]
    assert {p: p.lstat().st_mtime_ns for p in before} == before
    assert by_revision == by_run  # it is what the first run built


def test_an_untracked_file_is_taken_from_the_working_tree_and_said_so(
    two_builds: Project, tmp_path: Path
) -> None:
    t = Project(tmp_path / "t")
    shutil.copytree(two_builds.folder, t.folder, symlinks=True)
    (t.folder / ".gitignore").write_text(".finery\nbuild\nrows.jsonl\n", "utf-8")
    shutil.rmtree(t.folder / ".git")
    commit(t.folder)
    t.edit("recipe.yaml", "share: 0.9", "share: 0.7")
    head, steps = diff(t, "HEAD")
    assert head["sides"][0]["notes"] == [
        "rows.jsonl isn't in git: HEAD is taken to have the file that is here now"
    ]
    assert head["same"] == ["base", "rows"]
    assert steps["sft"]["missing"] == ["B: not built (setting share: 0.9 → 0.7)"]


PLUGIN = """
from finery import Step, hookimpl
from helper import Lines

@hookimpl
def finery_steps() -> dict[str, type[Step]]:
    return {"p.lines": Lines}
"""
HELPER = """
from finery import Dataset, Job, Step

class Lines(Step, seeded=False):
    '''A row.'''

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, [{"prompt": "old"}])
"""


@pytest.mark.parametrize("folder", [".", "inside"])
def test_a_module_beside_a_plugin_file_is_that_of_the_revision(tmp_path: Path, folder: str) -> None:
    t = Project(tmp_path / folder)
    t.write(
        {
            "recipe.yaml": "finery: 1\nname: t\nplugins: [plug.py]\ndata: {a: {use: p.lines}}\n",
            "plug.py": PLUGIN,
            "helper.py": HELPER,
        }
    )
    commit(tmp_path)
    assert "no difference" in t.run("diff", "HEAD", "now").out
    t.edit("helper.py", '"old"', '"new"')
    out = t.run("diff", "HEAD", "now").out
    assert "helper.py" in out
    assert "no difference" not in out


@pytest.mark.parametrize(("words", "error"), [
    (["nothing"], "'nothing' is neither a run of this recipe nor a git revision"),
    (["a", "b", "c"], "diff compares two states, not 3"),
])  # fmt: skip
def test_a_word_that_names_nothing_is_an_error(
    two_builds: Project, words: list[str], error: str
) -> None:
    done = two_builds.run("diff", *words)
    assert done.code == 2
    assert error in done.err
    assert "fix:" in done.err


def test_a_broken_recipe_of_a_revision_is_reported_with_the_revision(
    two_builds: Project, tmp_path: Path
) -> None:
    t = Project(tmp_path / "t")
    shutil.copytree(two_builds.folder, t.folder, symlinks=True)
    good = (t.folder / "recipe.yaml").read_text("utf-8")
    t.edit("recipe.yaml", "share:", "shore:")
    commit(t.folder)
    t.write({"recipe.yaml": good})
    done = t.run("diff", "HEAD")
    assert done.code == 2
    assert "recipe.yaml:9" in done.err
    assert "unknown setting 'shore'" in done.err


OWN = """
from finery import hookimpl
from finery.rows import answer_text
from finery_eval.evaluator import Evaluator

SCALE = 1.0

def scaled(counts):
    return SCALE * sum(n for value, n in counts.items() if value[0]) / sum(counts.values())

class Own(Evaluator):
    '''Right, and scaled.'''

    def metric_names(self):
        return ["right", "scaled"]

    def statistics(self):
        return {"scaled": scaled}

    def judge(self, row, answer):
        right = answer.text == answer_text(row)
        return {"right": right, "scaled": [right]}

@hookimpl
def finery_steps():
    return {"own.eval": Own}
"""


@pytest.fixture(scope="module")
def own_metric(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A build with a metric that has a statistic of its own."""
    recipe = RECIPE.replace("./steps.py", "./steps.py, ./own.py").replace("eval.exact", "own.eval")
    t = Project(tmp_path_factory.mktemp("own"))
    t.write({**files(recipe=recipe), "own.py": OWN})
    t.ran()
    return t


def test_a_comment_beside_a_statistic_reruns_nothing(own_metric: Project, tmp_path: Path) -> None:
    t = Project(tmp_path / "t")
    shutil.copytree(own_metric.folder, t.folder, symlinks=True)
    assert t.ran() == []
    t.edit("own.py", "SCALE = 1.0", "SCALE = 1.0  # a comment")
    assert t.ran() == []
    t.edit("own.py", "SCALE = 1.0", "SCALE = 0.5")
    assert t.ran() == ["test"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("SCALE = 1.0", "SCALE = 0.5", "isn't the same in both"),
        ("value[0]", "value[0][0]", "isn't the same in both"),
        ('"scaled": scaled', '"scaled": lambda counts: scaled(counts) / 2', "isn't recorded"),
    ],
)
def test_scores_of_another_statistic_are_not_compared(
    own_metric: Project, tmp_path: Path, old: str, new: str, why: str
) -> None:
    t = Project(tmp_path / "t")
    shutil.copytree(own_metric.folder, t.folder, symlinks=True)
    t.edit("own.py", old, new)
    if "[0][0]" in new:
        t.edit("own.py", '"scaled": [right]', '"scaled": [[right], len(answer.text)]')
    t.edit("recipe.yaml", "share: 0.5", "share: 0.6")
    t.ran()
    metrics = diff(t)[1]["test"]["outputs"][0]["difference"]["models"]["sft"]["metrics"]
    assert metrics["right"]["test"]["difference"] == pytest.approx(0.1)
    scaled = metrics["scaled"]
    assert scaled["values"][0] == 0.5  # as stored
    assert scaled["test"] is None
    assert why in scaled["incomparable"]
    out = t.run("diff").out
    assert f"scaled can't be compared: {scaled['incomparable']}" in out


def test_builds_are_compared_by_what_they_stored(own_metric: Project, tmp_path: Path) -> None:
    """Neither another statistic of today nor a plugin that can't be loaded changes the result."""
    t = Project(tmp_path / "t")
    shutil.copytree(own_metric.folder, t.folder, symlinks=True)
    t.edit("recipe.yaml", "share: 0.5", "share: 0.6")
    t.ran()
    before = diff(t)[1]["test"]["outputs"][0]["difference"]
    scaled = before["models"]["sft"]["metrics"]["scaled"]["test"]
    assert scaled["difference"] == pytest.approx(0.1)
    assert scaled["test"] == "paired bootstrap"
    t.edit("own.py", "SCALE = 1.0", "SCALE = 0.5")
    t.edit("own.py", "def scaled(", "def other(counts):\n    raise SystemExit\n\ndef scaled(")
    t.edit("own.py", '"scaled": scaled', '"scaled": other')
    assert diff(t)[1]["test"]["outputs"][0]["difference"] == before


def test_a_statistic_with_other_data_is_not_compared(own_metric: Project, tmp_path: Path) -> None:
    """The digest of its code is the same, but it gave the same answers another score."""
    t = Project(tmp_path / "t")
    shutil.copytree(own_metric.folder, t.folder, symlinks=True)
    shutil.rmtree(t.folder / ".finery")
    read = 'float(__import__("pathlib").Path(__file__).with_name("scale.txt").read_text())'
    t.edit("own.py", "SCALE = 1.0", f"SCALE = {read}")
    t.write({"scale.txt": "1.0"})
    t.ran()
    t.write({"scale.txt": "0.5"})
    t.edit("recipe.yaml", "share: 0.5", "share: 0.6")
    t.ran()
    scaled = diff(t)[1]["test"]["outputs"][0]["difference"]["models"]["sft"]["metrics"]["scaled"]
    assert scaled["values"] == pytest.approx([0.5, 0.3])
    assert scaled["test"] is None
    assert "its statistic gave other scores for the same answers" in scaled["incomparable"]
    (low, high), _ = scaled["intervals"]
    out = t.run("diff").out
    assert re.search(rf"50\.0 % +{100 * low:.1f} – {100 * high:.1f}", out)  # of A, next to it
    assert "base scaled can't be compared (test)" in out


def test_a_partial_is_not_found_as_a_function(own_metric: Project, tmp_path: Path) -> None:
    t = Project(tmp_path / "t")
    shutil.copytree(own_metric.folder, t.folder, symlinks=True)
    t.edit("own.py", '"scaled": scaled', '"scaled": __import__("functools").partial(scaled)')
    t.ran()
    t.edit("recipe.yaml", "share: 0.5", "share: 0.6")
    t.ran()
    assert "scaled can't be compared: the code of its statistic isn't" in t.run("diff").out
