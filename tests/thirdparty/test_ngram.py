"""A trainer from another distribution gets what the built-in ones get, by what it declares."""

import json
from pathlib import Path

import pytest
from conftest import MakeProject, Project
from installing import THIRD_PARTY, install, with_site

SOURCE = THIRD_PARTY / "finery-ngram"
RECIPE = """\
finery: 1
name: t
seed: 3
data:
  tickets: {use: data.file, path: rows.jsonl}
  split: {use: data.split, rows: tickets, validation: 0.2, test: 0.2}
train:
  words:
    use: ngram.train
    rows: split.train
    validation: split.validation
    epochs: 4
models:
  polite: {use: prompt.model, model: words, system: Be polite.}
evaluate:
  test: {use: eval.exact, models: [words, polite], rows: split.test}
"""
THINGS = ("card", "key", "phone", "bike")
ROWS = [
    {"prompt": f"{who} {verb} the {thing}", "completion": thing}
    for who in ("I", "we", "my sister", "the clerk")
    for verb in ("lost", "found", "broke", "sold", "want")
    for thing in THINGS
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin installed in it."""
    return install(SOURCE, tmp_path_factory.mktemp("ngram"))


@pytest.fixture
def t(project: MakeProject, site: Path) -> Project:
    """A project with a training of the plugin."""
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    return with_site(project({"recipe.yaml": RECIPE, "rows.jsonl": lines}), site)


def test_its_rows_are_proven_before_it_trains(t: Project) -> None:
    out = t.run("check", "--deep").out
    assert "words: rows  ngram.train" in out
    assert "every answer ends with the end word" in out
    assert "I lost the card <answer> ⟦card <end>⟧" in out
    assert "1 of 1 training verified" in out


def test_rows_that_cannot_be_learned_are_found_before_it_trains(t: Project) -> None:
    ran = t.run("check", "--deep", "--set", "train.words.max_length=3")
    assert ran.code == 2
    assert "there are no rows to learn from\n  fix: raise max_length" in ran.err


def test_it_is_advised_and_estimated(t: Project) -> None:
    notes = t.run("check", "--set", "train.words.order=6").out
    assert "note: order 6 for about 48 rows" in notes or "note: order 6 for 48 rows" in notes
    assert "(epochs)" in notes  # a note of finery_advice
    out = t.run("plan", "--set", "train.words.order=6").out
    assert "48 rows, 4 passes: less than a second" in out
    assert "no-baseline" not in out, "it has no base"
    lines = t.run("plan", "--json", "--set", "train.words.order=6").out.splitlines()
    plan = {line["step"]: line for line in map(json.loads, lines)}["words"]
    assert plan["estimate"]["rows"] == 48
    assert {"ngram-order", "epochs", "few-rows"} <= {note["name"] for note in plan["notes"]}


def test_it_reports_progress_and_live_metrics(t: Project) -> None:
    events = [e for e in t.events() if e.get("step") == "words"]
    progress = [e for e in events if e["event"] == "step_progress"]
    rows = progress[-1]["total"] / 4
    assert (progress[-1]["done"], rows) == (4 * rows, len(t.rows("split/train")))
    names = {e["name"] for e in events if e["event"] == "step_metric"}
    assert names == {"loss", "eval_loss", "perplexity"}


def test_its_model_is_built_shown_and_judged_like_any_other(t: Project) -> None:
    told = t.run("build").err
    (line,) = [line for line in told.splitlines() if "done    words" in line]
    assert [text for text in ("loss 0.", "val 0.", "ppl 1.") if text not in line] == []
    assert "words: Validation loss was lowest at step" in told
    assert "Model 3-gram, " in t.run("show").out
    ran = t.run("show", "words", "--html")
    assert "● validation loss" in ran.out
    assert "answers begin with: " in ran.out
    assert "page: build/t/words-curve.html" in ran.out
    page = (t.folder / "build/t/words-curve.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "validation loss" in page
    shown = json.loads(t.run("show", "words", "--json").out)
    assert shown["first_words"][0] in THINGS
    assert shown["verdict"]["state"] == "settled"
    report = json.loads((t.folder / "build/t/test/metrics.json").read_text(encoding="utf-8"))
    assert set(report["scores"]) == {"words", "polite"}
    assert report["scores"]["words"]["accuracy"] == 1.0
    assert "polite" in t.run("show", "test").out


def test_its_code_is_in_the_key(t: Project) -> None:
    t.ran()
    t.edit("site/finery_ngram/model.py", "share = counts[word] +", "share = 1.5 * counts[word] +")
    assert "words" in t.ran()


def test_its_plugin_is_fine(t: Project) -> None:
    ran = t.run("plugins", "ngram", "--check")
    assert (ran.code, "1 plugin, 0 problems" in ran.out) == (0, True), ran.out


def test_the_card_of_its_model_names_no_base(t: Project) -> None:
    """It learns from rows alone, so it isn't made from another model."""
    assert t.run("build", "--step", "test").code == 0
    ran = t.run("card", "words")
    assert ran.code == 0, ran.err
    assert "\n# t\n" in ran.out
    assert " on top of " not in ran.out
    assert "base_model" not in ran.out
    assert "- `words`: a model in the format `ngram` at the root" in ran.out
    assert "finery runs it, with a plugin that has an engine for this format" in ran.out
