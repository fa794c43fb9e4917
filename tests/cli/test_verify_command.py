"""`finery build --force` and `finery verify`: does a step make the same output again?"""

import json
from pathlib import Path

import pytest
from conftest import MakeProject, Project

RANDOM = "import random; rows.extend({'prompt': str(random.random())} for _ in range(3))"
MODELS = '''
import os
from finery import Job, Metrics, Model, Step, hookimpl, setting
from finery.rows.report import Report, Score


class Train(Step):
    """A model that is another one each time."""

    def run(self, job: Job) -> Model:
        (job.out / "weights").write_bytes(os.urandom(16))
        return Model(job.out, meta={"format": "light"})


class Judge(Step, seeded=False):
    """Scores that depend a little on the weights."""

    model: Model
    width: float = setting(1.0, help="Of the interval.")

    def run(self, job: Job) -> Metrics:
        value = 0.5 + self.model.file("weights").read_bytes()[0] / 10_000 + 1e-6
        score = Score(value, (value - self.width, value + self.width))
        return Metrics.write(job.out, Report(rows=1, scores={"m": {"accuracy": score}}))


@hookimpl
def finery_steps():
    return {"models.train": Train, "models.judge": Judge}
'''
RECIPE = f"""\
finery: 1
plugins: [./steps.py, ./models.py]
name: t
data:
  lines: {{use: steps.source, path: lines.txt}}
  copy: {{use: steps.copy, rows: lines}}
  dice: {{use: steps.script, code: "{RANDOM}"}}
  after: {{use: steps.copy, rows: [copy, dice]}}
train:
  sft: {{use: models.train}}
evaluate:
  test: {{use: models.judge, model: sft}}
"""


@pytest.fixture
def made(built: MakeProject) -> Project:
    """A project that is built."""
    return built({"recipe.yaml": RECIPE, "lines.txt": "x\ny\n", "models.py": MODELS})


def outputs(t: Project) -> dict[str, Path]:
    """The links under `build/` and where they lead."""
    return {p.name: p.readlink() for p in (t.folder / "build/t").iterdir()}


def test_what_is_forced_runs_again_and_later_steps_only_if_it_differs(made: Project) -> None:
    assert made.ran("--force", "copy") == ["copy"]
    events = made.events("--force", "copy")
    assert "its output is the same as before" in [e.get("message") for e in events]
    assert made.ran("--force", "dice") == ["after", "dice"]
    assert made.ran() == []
    ran = made.run("build", "-f", "copy", "-f", "dice")
    assert "copy: the same output as before (1 file)\n" in ran.out
    assert "dice: another output than before: rows-00000.jsonl\n" in ran.out
    assert "3 rows: 3 added, 3 removed" in ran.out
    ran = made.run("build", "--force", "nothing")
    assert (ran.code, "has no step 'nothing'" in ran.err) == (2, True)


def test_a_step_is_verified_without_publishing_anything(made: Project) -> None:
    before = outputs(made)
    ran = made.run("verify", "copy")
    assert (ran.code, ran.out) == (0, "copy: the same output as before (1 file)\n"), ran.err
    ran = made.run("verify", "dice", "--json")
    data = json.loads(ran.out)
    assert (ran.code, data["same"], data["outputs"][0]["files"]) == (1, False, ["rows-00000.jsonl"])
    assert data["outputs"][0]["difference"]["rows"] == [3, 3]
    assert outputs(made) == before
    assert made.ran() == []
    assert [*(made.folder / ".finery/work").iterdir()] == []
    made.edit("lines.txt", "x", "z")
    ran = made.run("verify", "copy")
    assert (ran.code, "isn't built for this recipe: lines, copy" in ran.err) == (2, True)


def test_a_model_with_other_weights_is_as_good_within_the_intervals(made: Project) -> None:
    ran = made.run("verify", "sft")
    assert ran.code == 0, ran.err
    assert "sft: another output than before: weights\n" in ran.out
    assert "accuracy of m" in ran.out
    assert "1 score, 0 outside of the interval" in ran.out
    assert made.ran("--set", "evaluate.test.width=0") == ["test"]
    ran = made.run("verify", "sft", "--set", "evaluate.test.width=0", "--json")
    (score,) = json.loads(ran.out)["scores"]
    assert score["within"] == (score["after"] == score["before"]) == (ran.code == 0)
    assert made.run("verify", "test").code == 0
