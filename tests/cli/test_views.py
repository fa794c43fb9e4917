"""The hook `finery_views`: how a plugin's own artifacts look, wherever finery shows them."""

import json
from typing import Any

import pytest
from conftest import MakeProject, Project

from finery.views.parts import as_text

NGRAM = '''\
"""A trainer with a format of its own, and how its models look."""

import json

from finery import Dataset, Job, Model, Step, hookimpl, setting
from finery.views import LiveMetric, Remark, Section, Text, View
from finery_trl.view.model import CurveView

METRICS = {"perplexity": LiveMetric("ppl {value}", lower_is_better=True)}


class Train(Step, seeded=False, sections=("train",), learns="answers", metrics="METRICS_AT"):
    """Count words."""

    rows: Dataset
    order: int = setting(2, help="Words that are looked at together.")
    kind: str = setting("ngram", help="The format.")

    def run(self, job: Job) -> Model:
        for at, value in enumerate((9.0, 7.0, 8.0), 1):
            job.progress(at, 3)
            job.metric("perplexity", value, at)
        points = [{"step": at, "loss": 3.0 / at} for at in range(1, 9)]
        (job.out / "curve.json").write_text(json.dumps(points))
        return Model(job.out, meta={"format": self.kind, "order": self.order})


class NgramView(CurveView):
    """N-grams."""

    def brief(self, manifest):
        return f"{manifest.meta['order']}-gram"

    def data(self, output, detail):
        return {**super().data(output, detail), "order": output.manifest.meta["order"]}

    def describe(self, outputs, context):
        yield from super().describe(outputs, context)
        titles = " ".join(output.title for output in outputs)
        if context.scope == "summary":
            yield Section("", [Text("together: " + titles)])
        if context.scope == "output":
            rows = len(context.built("rows"))
            text = f"looks {context.detail.rows} words ahead of {rows} rows"
            yield Section("Words", [Text(text)])

    def remarks(self, output):
        yield Remark("it is small", "take order: 3", "warning")
        yield from super().remarks(output)


class Anything(View):
    """A kind, whatever its format."""

    def brief(self, manifest):
        return "any model"


@hookimpl
def finery_steps():
    return {"ngram.train": Train}
'''
VIEWS = """

@hookimpl
def finery_views():
    return {"Model/ngram": NgramView}
"""
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py, ./ngram.py]
data:
  rows: {use: data.file, path: rows.jsonl, format: completion}
train:
  mine: {use: ngram.train, rows: rows}
  other: {use: ngram.train, rows: rows, kind: trigram}
"""
ROWS = "".join(json.dumps({"prompt": f"p{n}", "completion": "c"}) + "\n" for n in range(5))
PLUGIN = NGRAM.replace('"METRICS_AT"', "METRICS") + VIEWS
FILES = {"recipe.yaml": RECIPE, "ngram.py": PLUGIN, "rows.jsonl": ROWS}


@pytest.fixture
def models(built: Any) -> Project:
    made: Project = built(FILES)
    return made


def test_a_build_shows_its_metrics_and_ends_with_what_its_view_says(project: MakeProject) -> None:
    code, out, err = project(FILES).run("build")
    assert code == 0, err
    done = [line for line in err.splitlines() if line.split()[:2] == ["done", "mine"]]
    assert done[0].endswith("ppl 8.000↑")
    assert "mine: it is small\n  take order: 3\n" in err
    assert "mine: Training loss went from 3 to 0.375" in err
    assert "other: it is small" not in err
    assert "other: Training loss went from 3 to 0.375" in err, "any model has the curve's view"
    assert "together: mine\n" in out


def test_it_is_in_the_overview_and_shown_with_its_curve(models: Project) -> None:
    out = models.run("show").out
    assert "mine   Model 2-gram, " in out
    assert "other  Model trigram, " in out
    assert "together: mine\n" in out
    out = models.run("show", "mine", "-n7").out
    assert "⠒ training loss" in out
    assert "looks 7 words ahead" in out
    assert "looks" not in models.run("show", "other").out


def test_without_a_view_facts_and_files_are_shown(project: MakeProject) -> None:
    made = project(
        {
            "recipe.yaml": """\
finery: 1
name: t
plugins: [./steps.py]
export:
  pack: {use: steps.pack, code: "(job.out / 'a\\x1b.txt').write_text('abc')"}
"""
        }
    )
    assert made.run("build").code == 0
    out = made.run("show", "pack").out
    assert out.startswith("pack  Bundle, 3 B\n")
    assert "a␛.txt  3 B" in out
    assert made.run("show").out == "pack  Bundle 3 B\n"


def view_table(table: str) -> dict[str, str]:
    """The project with other views."""
    return {**FILES, "ngram.py": PLUGIN.replace('{"Model/ngram": NgramView}', table)}


HOSTILE = '''\
"""Scores with names that a terminal would obey."""

from finery import Job, Metrics, Step, hookimpl
from finery.rows import report


class Score(Step, seeded=False):
    """Scores."""

    def run(self, job: Job) -> Metrics:
        names = {"m\\x1b[31m\\u202e\\0": {"accuracy\\x1b]0;x\\x07": report.Score(0.5)}}
        return Metrics.write(job.out, report.Report(rows=2, scores=names, legend="\\x9b1m"))


@hookimpl
def finery_steps():
    return {"hostile.score": Score}
'''


def test_no_terminal_obeys_names_of_scores(project: MakeProject) -> None:
    recipe = "finery: 1\nname: t\nplugins: [./hostile.py]\nevaluate:\n  s: {use: hostile.score}\n"
    t = project({"recipe.yaml": recipe, "hostile.py": HOSTILE})
    for args in (["build"], ["show"], ["show", "s"]):
        ran = t.run(*args)
        assert not {*"\x1b\0\a\u202e\x9b"} & {*ran.out, *ran.err}, args
        assert ran.code == 0, ran.err
        assert "m␛[31m\\u202e␀" in ran.out
        assert "accuracy␛]0;x␇" in ran.out


@pytest.mark.parametrize(("table", "says"), [
    ('{"Metrics": NgramView}', ["'Metrics' is provided twice", "plugin 'eval'", "plugin 'ngram'"]),
    ('{"Model/ngram": Train}', ["view 'Model/ngram' of plugin 'ngram'", "is not a View"]),
    ('{"Model/ngram": "finery_nowhere:V"}', ["view 'Model/ngram'", "ModuleNotFoundError"]),
    ('["Model/ngram"]', ["finery_views of plugin 'ngram' must return a mapping"]),
])  # fmt: skip
def test_a_wrong_table_is_an_error_that_names_the_plugin(
    project: MakeProject, table: str, says: list[str]
) -> None:
    made = project(view_table(table))
    built = made.run("build")
    assert built.code == 0, "the build is fine"
    assert built.err.count(says[0]) == 1
    code, _, err = made.run("show", "mine")
    assert code == 2, err
    assert [text for text in says if text not in err] == []
    assert "Traceback" not in built.err + err


def test_broken_metrics_are_told_and_the_build_goes_on(project: MakeProject) -> None:
    made = project({**FILES, "ngram.py": PLUGIN.replace("metrics=METRICS", 'metrics="nowhere:X"')})
    ran = made.run("build", timeout=120)
    assert ran.code == 0, ran.err
    assert "metrics='nowhere:X' of ngram.py:Train can't be loaded" in ran.err


@pytest.mark.parametrize(("fact", "words"), [
    (True, "yes"), (None, "–"), (2e-4, "0.0002"), ([], "none"), (["a", 1], "a, 1"),
    ({"thinking": False, "switched": True}, "thinking no, switched yes"),
    ({"rows": 9, "seeds": {"rows": 4, "distinct_2": 0.5}, "fields": ["a", "b"], "of": None},
     "rows 9, seeds (rows 4, distinct_2 0.5), fields (a, b), of –"),
    ([{"role": "user", "content": "Hi"}], "(role user, content Hi)"),
])  # fmt: skip
def test_facts_are_shown_in_words(fact: Any, words: str) -> None:
    assert as_text(fact) == words
