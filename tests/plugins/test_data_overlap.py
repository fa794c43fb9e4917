"""The note train-test-overlap: given where near copies of test rows may be learned from."""

import hashlib
from pathlib import Path

import pytest

from finery import Dataset
from finery.builder.checks import notes_on
from finery.plugin.manager import load_plugins
from finery.recipe.document import load
from finery.recipe.graph import Graph, build_graph
from finery.rows import Row, with_id
from finery.testing import TestJob, dataset
from finery.views import Context
from finery_data.duplicates import overlap_of
from finery_data.overlap import are_apart
from finery_data.steps.split import Split
from finery_data.view.dataset import contaminations

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


@pytest.mark.parametrize(
    ("edits", "apart"),
    [
        ([], True),
        ([OFF], False),
        ([OFF, (TRAIN, "rows: clean}")], True),
        ([OFF, (TRAIN, "rows: clean}"), ("against: split.test}", "against: split.test, "
          "threshold: 0.9}")], False),
        ([(TRAIN, "rows: changed}")], False),
        ([(TRAIN, "rows: [split.train, more]}")], False),
        ([("rows: split.test}", "rows: few}")], True),
        ([(TRAIN, "rows: split.test}")], False),
    ],
)  # fmt: skip
def test_rows_are_apart_if_a_step_compared_them_and_none_changed_them_since(
    tmp_path: Path, edits: list[tuple[str, str]], apart: bool
) -> None:
    changed = "  changed: {use: data.map, rows: split.train, user: x}\n  all:"
    made = graph(tmp_path, ("  all:", changed), *edits)
    learned = [s for s in made.nodes["sft"].sources if s.role == "train"]
    (test,) = made.nodes["test"].row_sources
    assert all(are_apart(made, source, test) for source in learned) == apart


SHARED = "please tell me what I have to do now, because nobody on the phone could say it to me"
THINGS = (
    "parcel", "invoice", "password", "refund", "voucher", "address", "order", "account", "ticket",
    "receipt",
)  # fmt: skip


def test_a_report_finds_no_near_copy_that_the_split_calls_none(tmp_path: Path) -> None:
    """A fifth of all rows share a text, but not a fifth of those that the report compares."""
    texts = [f"{thing}: {SHARED}" for thing in THINGS]
    texts += [hashlib.sha256(str(number).encode()).hexdigest() for number in range(38)]
    rows: list[Row] = [with_id({"prompt": text, "completion": "a"}) for text in texts]
    made = Split(rows=[dataset(tmp_path / "in", rows)]).run(TestJob(tmp_path / "job", seed=4))
    split: dict[str, Dataset] = {"split.train": made.train, "split.test": made.test}
    assert made.train.meta["dropped"] == {}
    sides = [*split.items()]
    assert overlap_of(sides[0], sides[1], 99, tmp_path, lambda what, done, total: None).counts
    context = Context("t", graph(tmp_path), split.get, None, lambda *a: None, lambda text: None)
    (pair,) = contaminations(context)
    assert (pair.one, pair.other, pair.counts) == ("split.train", "split.test", {})
