"""`finery rehearse`: the whole recipe with few rows, in a store that is thrown away."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project, until

PLUGIN = '''
import json
import os
import signal
import subprocess

from finery import (
    Bundle, Completion, Dataset, Engine, Job, Key, Metrics, Model, RequirementError, Step,
    StepError, hookimpl, setting, takes,
)
from finery.rows import answer_text, report, split_turns
from finery.rows.parts import prompt_text


def ends(fault, name):
    if fault == name:
        raise RuntimeError(f"it fails: {name}")


class Learn(Step, sections=("train",), learns="answers", seeded=False, rehearsal={"steps": 1}):
    """Learn answers by heart."""

    rows: Dataset = takes(role="train", help="Rows.")
    validation: Dataset | None = takes(None, role="validation", help="Other rows.")
    steps: int = setting(100_000, ge=1, help="Optimizer steps.")
    fault: str = setting("", help="What is wrong.")

    def run(self, job: Job) -> Model:
        assert self.steps == 1, "hours are spent"
        job.log(f"{len(self.rows)} rows")
        ends(self.fault, "training")
        if self.fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "import":
            import no_such_module
        classes = {row["label"] for row in self.rows}
        for row in self.validation or ():
            if row["label"] not in classes:
                raise StepError(f"no training row has the class {row['label']}")
        memory = {prompt_text(row): answer_text(row) for row in self.rows}
        if self.fault != "unsaved":
            (job.out / "memory.json").write_text(json.dumps(memory))
        return Model(job.out, meta={"format": "memory", "fault": self.fault})


class Memory(Engine):
    """Answers what it remembers."""

    def generate(self, requests, sampling):
        ends(self.model.meta["fault"], "engine")
        memory = json.loads(self.model.file("memory.json").read_text())
        return [
            Completion(
                text=memory.get(request.messages[-1]["content"], "unknown"),
                finish_reason="stop", prompt_tokens=1, completion_tokens=1,
            )
            for request in requests
        ]


class Grade(Step, sections=("evaluate",), engines=True, schemas=False, seeded=False):
    """Grade the answers of a model."""

    model: Model = takes(help="The model.", uses_name=True)
    rows: Dataset
    fault: str = setting("", help="What is wrong.")
    least: float = setting(0.99, help="The lowest grade.", affects_output=False)

    def run(self, job: Job) -> Metrics:
        right = 0
        answers = job.engine(self.model).generate([split_turns(row)[0] for row in self.rows])
        for row, answer in zip(self.rows, answers):
            if self.fault == "shape":  # of one row in the middle
                row["extra"].split() if "extra" in row else None
            if self.fault == "longest" and len(prompt_text(row)) > 2000:
                raise StepError("a prompt is too long for the judge")
            right += answer.text == answer_text(row)
        name = "grade" if self.fault != "metric" else "mark"
        share = right / len(self.rows) if self.fault != "range" else float("nan")
        scores = {self.model.name: {name: report.Score(share)}}
        result = report.Report(rows=len(self.rows), scores=scores)
        if self.fault == "kind":
            return Model(job.out, meta={"format": "memory"})
        return Metrics.write(job.out, result)

    def verify(self, outputs):
        scores = outputs[""].report().scores
        (metrics,) = scores.values()
        if "grade" not in metrics:
            raise StepError("there is no metric 'grade'")
        if metrics["grade"].value < self.least:
            raise RequirementError("the grade is too low")


class Ship(Step, sections=("export",), seeded=False):
    """Ship a model."""

    model: Model
    fault: str = setting("", help="What is wrong.")

    def run(self, job: Job) -> Bundle:
        ends(self.fault, "export")
        if self.fault == "disk":
            raise OSError(28, "No space left on device")
        if self.fault == "program":
            subprocess.run(["no-such-converter"], check=True)
        if self.fault == "secret":
            job.secret("SHIP_TOKEN")
        if self.fault == "exit":
            raise SystemExit(3)
        if self.fault == "outside":
            job.copy(self.model.file("memory.json"), "../memory.json")
        if self.fault == "input":
            (self.model.path / "memory.json").write_text("{}")
        if self.fault == "seed":
            job.log(str(job.seed))
        job.copy(self.model.file("memory.json"), "memory.json")
        meta = {"format": "memory"}
        if self.fault == "meta":
            meta["path"] = job.out
        return Bundle(job.out, meta=meta)


@hookimpl
def finery_steps():
    return {"late.learn": Learn, "late.grade": Grade, "late.ship": Ship}


@hookimpl
def finery_engines():
    return {"memory": Memory}
'''
RECIPE = """\
finery: 1
name: late
plugins: [./late.py]
data:
  rows: {use: data.file, path: rows.jsonl, keep: [label, extra]}
  split: {use: data.split, rows: rows, validation: 0.2, test: 0.2, stratify: label}
train:
  model: {use: late.learn, rows: split.train, validation: split.validation}
evaluate:
  test: {use: late.grade, model: model, rows: split.test}
export:
  ship: {use: late.ship, model: model, needs: test}
"""
NUMBER = 600
FAULTS = {
    "training": ("model", "it fails: training"),
    "killed": ("model", "smaller batches, a shorter max_length"),
    "import": ("model", "no_such_module"),
    "unsaved": ("test", "memory.json"),
    "engine": ("test", "it fails: engine"),
    "shape": ("test", "has no attribute 'split'"),
    "longest": ("test", "too long for the judge"),
    "metric": ("test", "no metric 'grade'"),
    "kind": ("test", "but declares Metrics"),
    "export": ("ship", "it fails: export"),
    "disk": ("ship", "and build again: no data is lost"),
    "program": ("ship", "no-such-converter"),
    "secret": ("ship", "SHIP_TOKEN"),
    "exit": ("ship", "sys.exit(3)"),
    "outside": ("ship", "isn't the name of a file in this folder"),
    "meta": ("ship", "isn't JSON"),
    "seed": ("ship", "reads its seed"),
}
"""What is wrong → (the step that fails late, part of its error)."""
PLACES = {"model": "rows: split.train,", "test": "rows: split.test", "ship": "needs: test"}
QUICK = {"shape", "export"}


def rows(**extra: Any) -> str:
    """Rows of three classes."""
    lines: list[dict[str, Any]] = [
        {"prompt": f"question {n} {chr(97 + n % 26) * 9}", "completion": f"answer {n % 3}",
         "label": f"class {n % 3}"}
        for n in range(NUMBER)
    ]  # fmt: skip
    for n in range(400, 420):  # some of them are in each split
        lines[n] |= {"extra": ["not", "a", "text"]}
        lines[n + 20] |= {"prompt": f"{chr(77 + n)}{n} " * 500}
    return "".join(json.dumps(line | extra) + "\n" for line in lines)


@pytest.fixture
def late(project: MakeProject) -> Project:
    """The project."""
    return project({"late.py": PLUGIN, "recipe.yaml": RECIPE, "rows.jsonl": rows()})


def state_of(folder: Path) -> dict[str, Any]:
    """All files of a folder, as far as a command could change them."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.lstat().st_size)
        for path in folder.rglob("*") if "__pycache__" not in path.parts
    }  # fmt: skip


def rehearsals() -> set[str]:
    """The stores of rehearsals that exist."""
    return {path.name for path in Path(os.environ.get("TMPDIR", "/tmp")).glob("finery-rehearsal-*")}


def test_a_recipe_is_rehearsed_to_its_end_and_leaves_nothing(late: Project) -> None:
    stores, before = rehearsals(), state_of(late.folder)
    ran = late.run("rehearse")
    assert ran.code == 0, ran.err
    assert "5 of 5 steps rehearsed" in ran.err
    assert state_of(late.folder) == before  # no store, no build/, no lock file
    assert rehearsals() <= stores


def test_a_store_isnt_touched(late: Project) -> None:
    late.run("build", "--step", "split")
    before = state_of(late.folder)
    assert late.run("rehearse").code == 0
    assert state_of(late.folder) == before


def test_it_says_what_it_did_as_json(late: Project) -> None:
    late.edit("recipe.yaml", PLACES["ship"], "needs: test, fault: export")
    ran = late.run("rehearse", "--json")
    told = json.loads(ran.out)
    assert ran.code == 1
    assert told["ok"] is False
    assert [*told["rehearsed"]] == ["rows", "split", "model", "test"]
    (error,) = told["errors"]
    assert error["step"] == "ship"
    assert "it fails: export" in error["error"]["what"]
    assert told["not_rehearsed"] == {}


@pytest.mark.parametrize(
    "fault", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FAULTS]
)
def test_what_fails_late_fails_in_a_rehearsal(late: Project, fault: str) -> None:
    step, text = FAULTS[fault]
    at = "model" if fault in ("unsaved", "engine") else step
    late.edit("recipe.yaml", PLACES[at], f"{PLACES[at].rstrip(',')}, fault: {fault}"
              + ("," if PLACES[at].endswith(",") else ""))  # fmt: skip
    ran = late.run("rehearse")
    assert ran.code == 1, ran.err
    assert text in ran.err
    assert f"step '{step}'" in ran.err


@pytest.mark.slow
def test_a_class_that_training_rows_lack_is_found(late: Project) -> None:
    late.write({"other.jsonl": rows().splitlines()[0] + "\n" + rows(label="another")[:-1]})
    late.edit(
        "recipe.yaml",
        "  split:",
        "  other: {use: data.file, path: other.jsonl, keep: [label]}\n  split:",
    )
    late.edit("recipe.yaml", "validation: split.validation", "validation: other")
    ran = late.run("rehearse")
    assert ran.code == 1, ran.err
    assert "no training row has the class" in ran.err


@pytest.mark.slow
def test_a_missing_variable_is_found(late: Project) -> None:
    late.edit("recipe.yaml", "needs: test", "needs: test, env: [SHIP_TOKEN]")
    ran = late.run("rehearse")
    assert ran.code == 1, ran.err
    assert "SHIP_TOKEN" in ran.err


@pytest.mark.slow
def test_steps_that_dont_wait_for_a_failed_one_are_rehearsed(late: Project) -> None:
    late.edit("recipe.yaml", PLACES["test"], "rows: split.test, fault: metric")
    late.edit("recipe.yaml", ", needs: test", ", fault: export")
    ran = late.run("rehearse")
    assert "step 'test'" in ran.err
    assert "step 'ship'" in ran.err
    assert "2 failed" in ran.err


@pytest.mark.slow
def test_an_interrupted_rehearsal_leaves_nothing(late: Project) -> None:
    late.edit("late.py", 'ends(self.fault, "training")', "import time; time.sleep(60)")
    stores = rehearsals()
    process = late.start("rehearse")
    until(lambda: rehearsals() - stores and any(
        "sleep" in path.read_text() or path.stat().st_size >= 0
        for name in rehearsals() - stores
        for path in Path(os.environ.get("TMPDIR", "/tmp"), name).glob("runs/*/*model*")
    ))  # fmt: skip
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "nothing is left" in err
    assert rehearsals() <= stores


def test_steps_that_need_a_release_are_left_out_with_a_note(project: MakeProject) -> None:
    recipe = """\
finery: 1
name: released
data:
  rows: {use: data.file, path: rows.jsonl}
models:
  released: {use: release.model, tag: production}
  prompted: {use: prompt.model, model: released, system: Be brief.}
  first: {use: baseline.majority, rows: rows}
evaluate:
  only: {use: eval.exact, models: prompted, rows: rows}
  both: {use: eval.exact, models: [first, released], rows: rows, require: {first.broken: "<= 0.02"}}
"""
    made = project({"recipe.yaml": recipe, "rows.jsonl": rows()})
    ran = made.run("rehearse")
    assert ran.code == 0, ran.err
    for name in ("released", "prompted", "only"):
        assert f"not rehearsed: {name}: what is released" in ran.out
    assert "3 of 6 steps rehearsed" in ran.err


def test_settings_of_an_inner_step_that_its_step_refuses_stay(late: Project) -> None:
    plugin = late.folder / "late.py"
    inner = '''

from finery import UsageError, nested_step


class Inner(Step, sections=("evaluate",), rehearsal={"limit": 1}):
    """Inside another step."""

    limit: int = setting(5, help="Only 5.")

    def run(self, job: Job) -> Metrics:
        raise AssertionError


class Outer(Step, sections=("evaluate",)):
    """Around it."""

    rows: Dataset
    inner: Step | None = nested_step("evaluate", given={}, help="The inner step.")

    def check(self):
        if self.inner.limit != 5:
            raise UsageError("only 5", where="inner.limit", fix="remove it")

    def run(self, job: Job) -> Bundle:
        (job.out / "limit").write_text(str(self.inner.limit))
        return Bundle(job.out)
'''
    text = plugin.read_text().replace("\n\n@hookimpl", inner + "\n\n@hookimpl", 1)
    plugin.write_text(text.replace('"late.ship": Ship', '"late.inner": Inner, "late.outer": Outer'))
    late.edit("recipe.yaml", "{use: late.ship, model: model, needs: test}",
              "{use: late.outer, rows: rows, inner: {use: late.inner}}")  # fmt: skip
    late.edit("recipe.yaml", "export:\n", "")
    ran = late.run("rehearse")
    assert ran.code == 0, ran.err


def test_rows_are_chosen_of_each_class_and_shape() -> None:
    from finery.execute.rehearse import FEW, choose_rows

    chosen = choose_rows([json.loads(line) for line in rows().splitlines()], FEW, 2)
    assert {400, 439} <= chosen
    assert len(chosen) < 2 * FEW


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "maxLength": 3}, "abc"),
        ({"enum": ["x", "y"]}, "y"),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"$defs": {"a": {"type": "boolean"}}, "type": "array", "items": {"$ref": "#/$defs/a"}},
         [True]),
        ({"type": "object", "properties": {"a": {"const": 7}, "b": {"type": "array"}}},
         {"a": 7, "b": ["abcd"]}),
    ],
)  # fmt: skip
def test_a_value_follows_a_schema(schema: Any, value: Any) -> None:
    from finery.execute.rehearse import instance_of

    assert instance_of(schema, "abcd", schema) == value
