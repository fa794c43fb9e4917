"""A third party's evaluator with a table and a plot of its own, wherever finery shows scores."""

import html
import json
import re
from pathlib import Path

import pytest
from chromium import chromium
from conftest import Project
from judged import files

from finery import Metrics, PluginError
from finery.rows import report

CLASSES = 200
HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m|`@everyone`"
LONG = "long" * 100
PLUGIN = f'''
import json

from finery import Dataset, Job, Metrics, Model, Step, hookimpl, setting, takes
from finery.rows import report

HOSTILE, LONG = {HOSTILE!r}, {LONG!r}


class Grade(Step, seeded=False, sections=("evaluate",)):
    """Grades the models."""

    models: list[Model] = takes(help="The models.", uses_name=True)
    rows: Dataset
    bonus: float = setting(0.0, help="Added to all grades.")

    def run(self, job: Job) -> Metrics:
        scores = {{
            model.name: {{
                "grade": report.Score(1234.5 + self.bonus + number, (1200.0, 1300.0)),
                "share": report.Score(0.5, (0.4, 0.6)),
            }}
            for number, model in enumerate(self.models)
        }}
        names = [HOSTILE, LONG, *(f"class {{n}}" for n in range({CLASSES} - 2))]
        rows = [[name, n / {CLASSES}, 2 * n + self.bonus] for n, name in enumerate(names)]
        points = [(10.0**n, (5.0 + self.bonus) / 10**n) for n in range(6)]
        band = [(x, y / 2, 2 * y) for x, y in points]
        return Metrics.write(
            job.out,
            report.Report(
                rows=len(self.rows),
                scores=scores,
                unbounded=["grade"],
                tables=[
                    report.ReportTable(
                        "By class", ["class", "share", "n"], rows, {{"share": "share"}},
                    ),
                ],
                plots=[report.Plot(
                    [report.Series(HOSTILE, points, "both", band)],
                    report.Axis("rows", scale="log"), report.Axis("error", scale="log"),
                    f"Error {{HOSTILE}}",
                )],
                remarks=[report.Remark("It is " + HOSTILE, "Do more.", "warning")],
                words=["The grade is " + LONG],
            ),
        )


@hookimpl
def finery_steps():
    return {{"own.grade": Grade}}
'''  # fmt: skip
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py, ./own.py]
models:
  base: {use: t.answers, path: known.json}
data:
  rows: {use: data.file, path: rows.jsonl}
train:
  sft: {use: t.learn, model: base, rows: rows}
evaluate:
  test: {use: own.grade, models: [base, sft], rows: rows}
"""


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Built twice, with other grades the second time."""
    t = Project(tmp_path_factory.mktemp("graded"))
    t.write(files(10, RECIPE, **{"own.py": PLUGIN}))
    assert t.run("build").code == 0
    t.edit("recipe.yaml", "sft], rows: rows", "sft], rows: rows, bonus: 100")
    second = t.run("build")
    assert second.code == 0, second.err
    (t.folder / "second.txt").write_text(second.out + second.err)
    return t


def plain(page: str) -> str:
    """The text of a page, without styles and scripts."""
    text = re.sub(r"<(script|style).*?</\1>", " ", page.replace("<wbr>", ""), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def is_harmless(text: str) -> bool:
    return not {*"\x1b\0\a"} & {*text}


def is_harmless_markdown(text: str) -> bool:
    """Outside blocks of code."""
    text = re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    return "<img" not in text.replace("\\<", "") and "@everyone" not in text


def test_the_terminal_shows_scores_table_and_plot(graded: Project) -> None:
    out = graded.run("show", "test").out
    assert is_harmless(out)
    for words in (
        "grade", "1334", "50.0 %", "By class", "class 197", "Error <img", "x: rows (log)", "●",
        "It is <img", "longlong",
    ):  # fmt: skip
        assert words in out, words
    assert "␛[31m" in out


def test_the_end_of_a_build_has_the_scores_and_the_remark(graded: Project) -> None:
    text = (graded.folder / "second.txt").read_text()
    assert is_harmless(text)
    assert re.search(r"sft +test +1336 +1200 – 1300", text)
    assert "test: It is <img" in text
    assert "test also has: Error <img" in text
    assert "By class (finery show test)" in text
    assert "class 197" not in text


@pytest.mark.parametrize("command", [["show", "test"], ["report"]])
def test_pages_have_them_too(graded: Project, command: list[str]) -> None:
    ran = graded.run(*command, "--html", "p.html")
    assert ran.code == 0, ran.err
    page = (graded.folder / "p.html").read_text("utf-8")
    assert is_harmless(page)
    assert "<img" not in page
    text = plain(page)
    for words in ("By class", "class 197", "49.5 %", "logarithmic", "1336", "Do more."):
        assert words in text, words
    assert len(re.findall(r"<polyline", page)) >= 1


def test_markdown_and_the_diff(graded: Project) -> None:
    done = graded.run("report", "--format", "markdown", "-o", "-", "--against", "previous")
    assert done.code == 0, done.err
    assert is_harmless_markdown(done.out)
    assert re.search(r"\| sft \| test \| 133\d", done.out)
    scores, changes = done.out.split("What changed since")
    assert "<details><summary>Tables and plots of test</summary>" in scores
    assert "| class 197 | 99.5 % | 498.000 |" in scores
    assert re.search(r"^test: It is .*img.* Do more\.$", scores, re.MULTILINE)
    assert "x: rows (log)" in scores
    assert "| class 17 | 9.5 % | 38.000 → 138.000 |" in changes
    out = graded.run("diff", "previous", "last").out
    assert is_harmless(out)
    for words in (
        "grade", "By class, A → B", "… and 180 more rows that differ", "Error <img", "A: <img",
        "B: <img", "x: rows (log)",
    ):  # fmt: skip
        assert words in out, words
    assert re.search(r"class 17 +9.5 % +38.000 → 138.000", out)
    assert "unclear:" in out.splitlines()[0]  # nobody says whether a higher grade is better


def test_the_card_of_the_model_has_the_scores(graded: Project) -> None:
    ran = graded.run("card", "sft")
    assert ran.code == 0, ran.err
    assert "1335.5" in ran.out
    assert is_harmless(ran.out)
    assert is_harmless_markdown(ran.out)
    assert re.search(r"^It is .*img.* Do more\.$", ran.out, re.MULTILINE)
    for words in (
        "<details><summary>Tables and plots of test</summary>", "By class",
        "| class 197 | 99.5 % | 498.000 |", "x: rows (log)",
    ):  # fmt: skip
        assert words in ran.out, words


@pytest.mark.slow
def test_the_page_fits_a_phone(graded: Project) -> None:
    assert graded.run("show", "test", "--html", "phone.html").code == 0
    with chromium(390, 844) as browser:
        browser.open(Path(graded.folder / "phone.html"))
        width = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
        assert browser.errors() == []
        assert browser.run("return document.images.length") == 0
        assert browser.run("return document.querySelectorAll('figure.plot').length") == 1


def test_json_has_what_the_evaluator_wrote(graded: Project) -> None:
    data = json.loads(graded.run("show", "test", "--json").out)
    assert len(data["metrics"]["details"]["tables"][0]["rows"]) == CLASSES
    assert data["metrics"]["details"]["plots"][0]["x"] == {"label": "rows", "scale": "log"}


BROKEN: dict[str, tuple[report.Plot | report.ReportTable, str, tuple[str, ...]]] = {
    "style": (
        report.Plot([report.Series("s", [(1.0, 2.0)], "bars")], title="Error"),  # type: ignore[arg-type]
        "plot 'Error'", ("bars", "series[0].style"),
    ),
    "nan": (
        report.Plot([report.Series("s", [(1.0, float("nan"))])], title="Error"),
        "plot 'Error'", ("`points` of the series 's'", "(1.0, nan)"),
    ),
    "axis": (
        report.Plot([], report.Axis("x", "seconts"), title="Error"),  # type: ignore[arg-type]
        "plot 'Error'", ("seconts", "$.x.unit"),
    ),
    "cells": (
        report.ReportTable("By class", ["class", "n"], [["a", 1], ["b"]]),
        "table 'By class'", ("row 2 of `rows` has 1 cell, and the table 2 columns",),
    ),
    "cell": (
        report.ReportTable("By class", ["class", "n"], [["a", {"n": 1}]]),
        "table 'By class'", ("row 1 of `rows`, column 'n'",),
    ),
    "unit": (
        report.ReportTable("By class", ["class", "n"], [["a", 1]], {"n": "shares"}),
        "table 'By class'", ("`units` of 'n'", "did you mean 'share'?"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_could_not_be_shown_is_refused_when_it_is_written(name: str, tmp_path: Path) -> None:
    part, where, words = BROKEN[name]
    made = report.Report(rows=1, scores={"m": {"a": report.Score(0.5)}})
    if isinstance(part, report.Plot):
        made.plots = [part]
    else:
        made.tables = [part]
    with pytest.raises(PluginError) as caught:
        Metrics.write(tmp_path, made)
    assert caught.value.what.startswith(f"{where}: ")
    assert all(word in caught.value.what for word in words), caught.value.what
    assert not (tmp_path / "metrics.json").exists()


def test_the_error_of_a_build_names_the_evaluator(tmp_path: Path) -> None:
    own = Project(tmp_path)  # since other tests compare the last two builds of `graded`
    own.write(files(10, RECIPE, **{"own.py": PLUGIN}))
    own.edit("own.py", '{"share": "share"}', '{"share": "parts"}')
    ran = own.run("build")
    assert ran.code != 0
    problem = "table 'By class': `units` of 'share': 'parts' isn't a unit"
    assert re.search(f"FAILED +test +own.grade +{problem}", ran.err)


def test_wrong_answers_need_a_first_metric_of_yes_and_no(graded: Project) -> None:
    ran = graded.run("show", "test", "--wrong")
    assert ran.code == 2
    assert "its first metric, 'grade', isn't True or False" in ran.err
