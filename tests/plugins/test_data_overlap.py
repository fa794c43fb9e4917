"""The note train-test-overlap: given where near copies of test rows may be learned from."""

from pathlib import Path

import pytest

from finery.builder.checks import notes_on
from finery.plugin.manager import load_plugins
from finery.recipe.document import load
from finery.recipe.graph import Graph, build_graph

RECIPE = """\
finery: 1
silence: [few-rows, epochs, no-baseline, no-validation, no-evaluator, same-rows, learning-rate]
models:
  base: {use: local.model, path: models/base}
data:
  rows: {use: data.file, path: rows.jsonl}
  split: {use: data.split, rows: rows, validation: 0.1, test: 0.2, decontaminate: true}
  clean: {use: data.decontaminate, rows: [split.train, split.validation], against: split.test}
  few: {use: data.sample, rows: split.test, n: 10}
  all: {use: data.decontaminate, rows: rows, against: few}
generate:
  more: {use: more.rows, rows: split.train, model: base}
train:
  sft: {use: trl.sft, model: base, rows: [split.train]}
evaluate:
  test: {use: eval.exact, models: [sft], rows: split.test}
plugins: [./more.py]
"""
MORE = """\
from finery import Dataset, Job, Model, Step, hookimpl


class Rows(Step, engines=True, sections=("generate",)):
    '''New rows.'''

    rows: Dataset
    model: Model

    def run(self, job: Job) -> Dataset: ...


@hookimpl
def finery_steps():
    return {"more.rows": Rows}
"""


def graph(folder: Path, *edits: tuple[str, str]) -> Graph:
    text = RECIPE
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    (folder / "more.py").write_text(MORE, encoding="utf-8")
    (folder / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    recipe = load(folder / "recipe.yaml")
    return build_graph(recipe, load_plugins((folder / "more.py",)))


TRAIN = "rows: [split.train]}"
OFF = ("decontaminate: true", "decontaminate: false")


@pytest.mark.parametrize(
    ("edits", "why", "fix"),
    [
        ([], "", ""),
        ([OFF], "split keeps them", "decontaminate: true in split"),
        ([(TRAIN, "rows: [split.train, more]}")], "more is generated from split.train", "clean: {"),
        ([OFF, (TRAIN, "rows: clean}")], "", ""),
        ([OFF, ("rows: split.test}", "rows: few}")], "split keeps them", "decontaminate: true"),
    ],
)
def test_note(tmp_path: Path, edits: list[tuple[str, str]], why: str, fix: str) -> None:
    notes = [n for n in notes_on(graph(tmp_path, *edits)) if n.name == "train-test-overlap"]
    assert len(notes) == bool(why)
    for note in notes:
        assert note.step == "sft"
        assert note.text.endswith(why)
        assert note.fix.startswith(fix)


def test_rows_that_were_cleaned_are_not_the_same_rows(tmp_path: Path) -> None:
    edits = [(TRAIN, "rows: all}"), ("rows: split.test}", "rows: few}"), (", same-rows", "")]
    assert [n.name for n in notes_on(graph(tmp_path, *edits))] == []
    edits[0] = (TRAIN, "rows: rows}")
    assert [n.name for n in notes_on(graph(tmp_path, *edits))] == ["same-rows"]
