"""A project with a base, a trained and an exported model that answer from tables, for tests.

The training learns the first rows by heart, as many as `share` says, so what is right and wrong is
known beforehand, and a build takes a second.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

STEPS = '''
import json
from finery import Dataset, Files, Job, Metrics, Model, Step, hookimpl, setting
from finery.rows import answer_text, split_turns
from finery.testing import table_model

class Answers(Step, seeded=False):
    """A model that knows some answers."""

    path: Files = setting(help="A JSON file of prompt and answer.")
    default: str = setting("don't know", help="The answer to anything else.")

    def run(self, job: Job) -> Model:
        answers = json.loads(self.path.paths[0].read_text("utf-8"))
        return table_model(job.out, answers, self.default)

class Learn(Step, seeded=False, learns="answers", sections=("train",)):
    """A model that knows the first rows by heart."""

    model: Model
    rows: Dataset
    share: float = setting(0.5, help="The share of rows that it learns.")

    def run(self, job: Job) -> Model:
        rows = list(self.rows)
        known = rows[: round(self.share * len(rows))]
        answers = {split_turns(r)[0][-1]["content"]: answer_text(r) for r in known}
        made = table_model(job.out, answers, "a guess")
        curve = [{"step": i, "loss": 3.0 - self.share * i / 10, "epoch": i / 10} for i in range(11)]
        for point in curve[::5]:
            point["eval_loss"] = point["loss"] + 0.1
        (job.out / "curve.json").write_text(json.dumps(curve))
        return made

class Ship(Step, seeded=False, sections=("export",)):
    """A model that forgets what is told."""

    model: Model
    forgets: str = setting("", help="A prompt.")

    def run(self, job: Job) -> Model:
        answers = {p: a for p, a in self.model.meta["answers"].items() if p != self.forgets}
        made = table_model(job.out, answers, "a guess")
        made.meta |= {"exported_from": self.model.digest, "file": "model.bin", "size": 10_000}
        return made

class Explode(Step, seeded=False):
    """Always fails."""

    model: Model

    def run(self, job: Job) -> Model:
        raise ValueError("no room <script>alert(1)</script>")

@hookimpl
def finery_steps():
    return {"t.answers": Answers, "t.learn": Learn, "t.ship": Ship, "t.explode": Explode}

@hookimpl
def finery_engines():
    return {"table": "finery.testing.job:TableEngine"}

@hookimpl
def finery_views():
    return {"Model/table": "finery_trl.view.model:CurveView"}
'''
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
models:
  base: {use: t.answers, path: known.json}
data:
  rows: {use: data.file, path: rows.jsonl}
train:
  sft: {use: t.learn, model: base, rows: rows, share: 0.5}
export:
  shipped: {use: t.ship, model: sft, forgets: "question 3"}
evaluate:
  test: {use: eval.exact, models: [base, sft, shipped], rows: rows}
"""


def rows(count: int, answer: str = "answer") -> str:
    """JSON lines of questions with an answer each."""
    made = [{"prompt": f"question {i}", "completion": f"{answer} {i}"} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in made)


def files(count: int = 20, recipe: str = RECIPE, **more: str) -> Mapping[str, str]:
    """The files of the project. The base knows one answer."""
    return {
        "recipe.yaml": recipe,
        "steps.py": STEPS,
        "known.json": json.dumps({"question 0": "answer 0"}),
        "rows.jsonl": rows(count),
        ".gitignore": ".finery\nbuild\n",
        **more,
    }


def commit(folder: Path) -> None:
    """Make the folder a git repository, or commit what changed."""
    own = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ["-c", "user.name=x", "-c", "user.email=x@x.invalid"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "state"]):
        subprocess.run(["git", *who, *words], cwd=folder, env={**os.environ, **own}, check=True)
