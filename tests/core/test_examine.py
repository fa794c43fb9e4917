"""`Step.examine`: what it is shown, when it is called again, and where its errors are."""

import re
from pathlib import Path

import pytest
from conftest import MakeProject, Project

STEPS = """\
import os
from finery import DataError, Dataset, Job, Look, Model, File, Promise, Step, hookimpl
from finery import nested_step, setting

def say(text):
    with open(os.environ["RAN"], "a") as out:
        out.write(f"{text}\\n")

class Learn(Step, learns="answers", seeded=False):
    "A training."
    rows: Dataset
    inside: Step | None = nested_step("data", given={"rows": "rows"}, help="A reader.")
    kind: str = setting("light", help="The format that it writes.")
    epochs: int = setting(1, help="How often.")
    def outputs(self):
        return {"": Promise(Model, {"format": "light"})}
    def run(self, job: Job) -> Model:
        say("learn runs")
        return Model(job.out, meta={"format": self.kind})

class Read(Step, seeded=False, sections=("data", "generate")):
    "Says what it is shown."
    rows: Dataset
    model: Model | None = None
    file: File = setting(help="A file that isn't empty.")
    column: str = setting("prompt", help="A column of the rows.")
    def examine(self, look: Look) -> None:
        columns = look.columns("rows")
        say(f"sees {' '.join(sorted(columns.value))}, {columns.exact}" if columns else "sees none")
        if not self.file.path.read_text():
            raise DataError("the file is empty", where="file")
        if columns and self.column not in columns.value:
            raise DataError(f"no column {self.column}", where="column")
        if self.column == "bug":
            raise ValueError("a mistake in a plugin")
    def run(self, job: Job) -> Dataset:
        say("reads")
        return self.rows

@hookimpl
def finery_steps():
    return {"t.learn": Learn, "t.read": Read}
"""
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py, ./examined.py]
data:
  rows: {use: steps.source, path: rows.txt}
generate:
  read: {use: t.read, rows: rows, model: sft, file: note.txt, column: prompt, needs: [again]}
train:
  sft: {use: t.learn, rows: rows}
  again: {use: t.learn, rows: rows, epochs: 2}
"""
FILES = {"recipe.yaml": RECIPE, "examined.py": STEPS, "rows.txt": "a\nb\n", "note.txt": "note"}
BUILT = "sees id prompt, True"


@pytest.fixture(name="made")
def _made(project: MakeProject, tmp_path: Path) -> Project:
    made = project(FILES)
    made.env["RAN"] = str(tmp_path / "ran")
    return made


def said(made: Project, *args: str) -> tuple[int, str, list[str]]:
    """The command's exit code, its errors, and what the steps said."""
    file = Path(made.env["RAN"])
    file.write_text("")
    ran = made.run(*args)
    return ran.code, ran.err, [line for line in file.read_text().splitlines() if line != "source"]


def test_it_is_called_again_when_more_is_known(made: Project) -> None:
    assert said(made, "check")[::2] == (0, ["sees none", "sees none"])
    code, _, lines = said(made, "build")
    assert code == 0
    # Before the first training, not again before the second, and before its own `run`.
    assert lines == ["sees none", "sees none", BUILT, "learn runs", "learn runs", BUILT, "reads"]
    assert said(made, "build")[::2] == (0, [])


def test_forecasts_are_known_before_rows_are_built(made: Project) -> None:
    made.write({"rows.jsonl": '{"prompt": "a", "completion": "b"}\n'})
    made.edit("recipe.yaml", "steps.source, path: rows.txt", "data.file, path: rows.jsonl")
    code, _, lines = said(made, "check")
    assert code == 0
    assert [lines[0], lines[1].rpartition(", ")[2]] == ["sees none", "False"]
    made.edit("recipe.yaml", "column: prompt", "column: nothing")
    code, error, _ = said(made, "check")
    assert (code, error.splitlines()[0]) == (2, "recipe.yaml:7:71: error: no column nothing")


def test_rows_that_are_built_show_an_error_before_a_training(made: Project) -> None:
    made.edit("recipe.yaml", "column: prompt", "column: nothing")
    assert said(made, "check")[0] == 0
    code, error, lines = said(made, "build", "--step", "read")
    assert (code, lines[-1]) == (2, BUILT)
    assert "recipe.yaml:7:71: error: no column nothing" in error


def test_inputs_are_examined_before_the_step_runs(made: Project) -> None:
    made.edit(
        "recipe.yaml", "model: sft, file: note.txt, column: prompt", "file: note.txt, column: x"
    )
    code, error, lines = said(made, "build", "--step", "read")
    assert (code, lines[-1]) == (2, BUILT)
    assert re.search(r"^recipe.yaml:7:59: error: no column x$", error, re.MULTILINE)


def test_a_file_that_cant_be_used_is_an_error_before_any_build(made: Project) -> None:
    made.write({"note.txt": ""})
    for command in ("check", "build"):
        code, error, lines = said(made, command)
        assert (code, lines) == (2, ["sees none"])
        assert error.startswith("recipe.yaml:7:53: error: the file is empty")


def test_a_step_inside_another_knows_the_rows_that_it_is_given(made: Project) -> None:
    made.write({"rows.jsonl": '{"prompt": "a", "completion": "b"}\n'})
    made.edit("recipe.yaml", "steps.source, path: rows.txt", "data.file, path: rows.jsonl")
    inside = "  again: {use: t.learn, rows: rows, inside: {use: t.read, file: note.txt, column: x}}"
    made.edit("recipe.yaml", "  again: {use: t.learn, rows: rows, epochs: 2}", inside)
    code, error, _ = said(made, "check")
    assert (code, error.splitlines()[0]) == (2, "recipe.yaml:10:83: error: no column x")


def test_an_exception_in_it_is_an_error_of_the_plugin(made: Project) -> None:
    made.edit("recipe.yaml", "column: prompt", "column: bug")
    code, error, _ = said(made, "check")
    assert code == 2
    assert error.startswith("recipe.yaml:7:3: error: `examine` failed: ValueError: a mistake in a ")
    assert "examined.py:" in error


def test_a_promise_that_run_breaks_is_an_error(made: Project) -> None:
    made.edit(
        "recipe.yaml",
        "epochs: 2",
        "kind: dark",
    )
    code, error, _ = said(made, "build", "--step", "again")
    assert code == 1
    assert "promises format: 'light' of its output, but the output's `meta` has 'dark'" in error


def test_folders_of_the_project_arent_read_when_a_look_ends(made: Project) -> None:
    for name in ("out", "scratch"):
        made.write({f"{name}/note": "1"})
    assert said(made, "build")[0] == 0
    for name in ("out", "scratch"):
        made.write({f"{name}/another": "2"})
    assert said(made, "build")[::2] == (0, [])
